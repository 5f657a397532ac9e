//! The admission of a request: it counts for its address until its token is confirmed, and then
//! for its tenant. So nobody uses up the share of a tenant whose token he does not have.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use brigade_contracts::Token;

use crate::{
    runtime::http::network_of,
    workers::edge::admission::{AdmissionError, AdmissionPermit, RequestAdmission},
};

/// The permit of a request, given back with the last clone.
#[derive(Clone)]
pub(super) struct RequestPermit {
    permit: Arc<Mutex<AdmissionPermit>>,
    admission: RequestAdmission,
}

impl RequestPermit {
    /// Admits a request of which nothing is known but the address.
    ///
    /// # Errors
    /// If too many such requests are in flight, in total or from this address.
    pub fn for_stranger(
        admission: &RequestAdmission,
        from: IpAddr,
    ) -> Result<Self, AdmissionError> {
        let permit = admission.strangers.try_admit(&network_of(from))?;
        Ok(Self { permit: Arc::new(Mutex::new(permit)), admission: admission.clone() })
    }

    /// Counts the request for its tenant instead.
    ///
    /// # Errors
    /// If too many requests are in flight, in total or of this tenant.
    pub fn confirm_tenant(&self, tenant: &Token) -> Result<(), AdmissionError> {
        let permit = self.admission.tenants.try_admit(tenant.as_str())?;
        *self.permit.lock().unwrap_or_else(PoisonError::into_inner) = permit;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workers::edge::admission::AdmissionControl;

    #[test]
    fn s5_08_a_stranger_takes_nothing_of_a_tenants_share() {
        let admission = RequestAdmission {
            tenants: AdmissionControl::new(4),
            strangers: AdmissionControl::new(8),
        };
        let from = |address: &str| {
            RequestPermit::for_stranger(&admission, address.parse().expect("an address"))
        };
        let flood: Vec<_> = (0..3).map(|_| from("192.0.2.1")).collect();
        let refused: Vec<_> = flood.iter().map(|admitted| admitted.as_ref().err()).collect();
        assert_eq!(refused, [None, None, Some(&AdmissionError::ShareExceeded)]);
        let tenant = Token::new("t1").expect("a token");
        let known = from("192.0.2.2").expect("room");
        assert!(known.confirm_tenant(&tenant).is_ok());
        // The stranger's permit is free again, the tenant's is taken.
        let others = [from("192.0.2.2"), from("192.0.2.2")];
        assert!(others.iter().all(Result::is_ok));
        let second = others[0].as_ref().map(|other| other.confirm_tenant(&tenant));
        assert_eq!(second.ok().and_then(Result::err), Some(AdmissionError::ShareExceeded));
        drop(known);
        assert!(others[1].as_ref().is_ok_and(|other| other.confirm_tenant(&tenant).is_ok()));
    }
}
