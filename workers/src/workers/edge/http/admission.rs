//! The place of a request: one of its address's, until the token that it shows is confirmed; then
//! one of its tenant's. So nobody uses up the share of a tenant whose token he does not have.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use brigade_contracts::Token;

use crate::workers::edge::{
    places::{Place, Places},
    reply::Reply,
};

/// A place that is given back with the last clone.
#[derive(Clone)]
pub(in crate::workers::edge) struct Admission {
    place: Arc<Mutex<Place>>,
    in_hand: Places,
}

impl Admission {
    /// Takes a place among those of whom nothing is known but the address.
    ///
    /// # Errors
    /// `503 busy` where there is no room, `429 too_many` where the address has its share.
    pub fn of_stranger(strangers: &Places, in_hand: &Places, from: IpAddr) -> Result<Self, Reply> {
        let place = strangers.take(&network(from))?;
        Ok(Self { place: Arc::new(Mutex::new(place)), in_hand: in_hand.clone() })
    }

    /// Takes one of the tenant's places instead.
    ///
    /// # Errors
    /// `503 busy` where there is no room, `429 too_many` where the tenant has its share.
    pub fn confirmed(&self, tenant: &Token) -> Result<(), Reply> {
        let place = self.in_hand.take(tenant.as_str())?;
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = place;
        Ok(())
    }
}

/// Names an address; of IPv6 the network of 64 bits, since whoever has one has all of it.
fn network(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s5_08_a_stranger_takes_nothing_of_a_tenants_share() {
        let (strangers, in_hand) = (Places::new(8), Places::new(4));
        let from = |address: &str| {
            let address = address.parse().expect("an address");
            Admission::of_stranger(&strangers, &in_hand, address)
        };
        let flood: Vec<_> = (0..3).map(|_| from("192.0.2.1")).collect();
        let refused: Vec<_> =
            flood.iter().map(|taken| taken.as_ref().err().map(|reply| reply.status)).collect();
        assert_eq!(refused, [None, None, Some(429)]);
        let tenant = Token::new("t1").expect("a token");
        let known = from("192.0.2.2").expect("room");
        assert!(known.confirmed(&tenant).is_ok());
        // The stranger's place is free again, the tenant's is taken.
        let others = [from("192.0.2.2"), from("192.0.2.2")];
        assert!(others.iter().all(Result::is_ok));
        let second = others[0].as_ref().map(|other| other.confirmed(&tenant));
        assert_eq!(second.ok().and_then(Result::err).map(|reply| reply.status), Some(429));
        drop(known);
        assert!(others[1].as_ref().is_ok_and(|other| other.confirmed(&tenant).is_ok()));
    }

    #[test]
    fn an_address_is_known_by_what_cannot_be_chosen_freely() {
        let of = |address: &str| network(address.parse().expect("an address"));
        assert_eq!(of("192.0.2.1"), "192.0.2.1");
        assert_eq!(of("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2::1"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
    }
}
