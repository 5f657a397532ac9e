//! How many requests a second are served, as a setting.

use std::{num::NonZeroU32, str::FromStr};

use anyhow::{Context as _, ensure};

/// The rate of a token bucket: it holds `burst` requests, and is refilled at `per_second`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub per_second: NonZeroU32,
    pub burst: NonZeroU32,
}

/// The rates of an edge; `None` where there is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// The rate of requests from one address.
    pub address: Option<Rate>,
    /// The rate of requests from one address that need no token, such as logins.
    pub login: Option<Rate>,
    /// The rate of requests of one user.
    pub user: Option<Rate>,
    /// The rate of requests to one tenant.
    pub tenant: Option<Rate>,
}

impl RateLimits {
    /// Returns the rates of a process that is told nothing else: guests of a restaurant share an
    /// address, and a page that polls each second still has room for what is tapped.
    #[must_use]
    pub fn standard() -> Self {
        Self {
            address: Rate::new(100, 1000),
            login: Rate::new(5, 100),
            user: Rate::new(50, 200),
            tenant: Rate::new(2000, 10_000),
        }
    }
}

impl Rate {
    /// Returns a rate; `None` if it would let nothing through.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Option<Self> {
        Some(Self { per_second: NonZeroU32::new(per_second)?, burst: NonZeroU32::new(burst)? })
    }

    /// Returns three quarters of it: what the guests of a tenant have of the tenant's rate.
    #[must_use]
    pub fn of_guests(self) -> Self {
        let share = |of: NonZeroU32| {
            NonZeroU32::new(of.get() - of.get().div_ceil(4)).unwrap_or(NonZeroU32::MIN)
        };
        Self { per_second: share(self.per_second), burst: share(self.burst) }
    }

    /// Returns the seconds within which an empty bucket is full again, rounded up.
    #[must_use]
    pub fn window(self) -> u32 {
        self.burst.get().div_ceil(self.per_second.get())
    }
}

impl FromStr for RateLimits {
    type Err = anyhow::Error;

    /// Reads `off`, or `<name>=<per second>/<burst>` and `<name>=off`, separated by commas. What is
    /// not named stays at the standard.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        if text.trim() == "off" {
            return Ok(Self::default());
        }
        let mut limits = Self::standard();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, rate) = part.split_once('=').with_context(|| format!("{part:?}"))?;
            let limit = match name.trim() {
                "address" => &mut limits.address,
                "login" => &mut limits.login,
                "user" => &mut limits.user,
                "tenant" => &mut limits.tenant,
                _ => anyhow::bail!("{name:?} is none of address, login, user and tenant"),
            };
            *limit = match rate.trim() {
                "off" => None,
                rate => Some(parse(rate).with_context(|| format!("{part:?}"))?),
            };
        }
        Ok(limits)
    }
}

fn parse(rate: &str) -> anyhow::Result<Rate> {
    let (per_second, burst) = rate.split_once('/').context("it is <per second>/<burst>, or off")?;
    let rate = Rate::new(per_second.trim().parse()?, burst.trim().parse()?);
    let rate = rate.context("neither may be 0")?;
    ensure!(rate.burst >= rate.per_second, "the burst is at least what comes in a second");
    Ok(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_named_and_the_others_stay() {
        let standard = RateLimits::standard();
        let read = |text: &str| text.parse::<RateLimits>().unwrap();
        assert_eq!(read(""), standard);
        assert_eq!(read("off"), RateLimits::default());
        assert_eq!(read("user=10/20"), RateLimits { user: Rate::new(10, 20), ..standard });
        let some = RateLimits { address: None, tenant: Rate::new(5, 5), ..standard };
        assert_eq!(read("address=off, tenant=5/5"), some);
        for bad in ["user", "user=10", "user=0/5", "user=5/0", "user=9/5", "guest=1/1", "user=a/b"]
        {
            assert!(bad.parse::<RateLimits>().is_err(), "{bad}");
        }
        assert_eq!(Rate::new(50, 220).map(Rate::window), Some(5));
    }
}
