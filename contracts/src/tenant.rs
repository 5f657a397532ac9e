//! Tenants: the restaurants that are registered (`brigade tenants`). Of others nothing is decided,
//! and no query is answered.

use crate::Refusal;

/// The state of a registered tenant. One that was removed is not registered any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TenantState {
    Active,
    /// Nothing of its programs, staff and customers is taken; the fleet's own work for it goes on.
    Suspended,
}

impl TenantState {
    /// Reads the column `state` of `brigade.tenants`; `None` if the tenant is removed.
    #[must_use]
    pub fn parse(state: &str) -> Option<Self> {
        match state {
            "active" => Some(Self::Active),
            "suspended" => Some(Self::Suspended),
            _ => None,
        }
    }
}

/// Checks that a tenant, of which this is the state, may send commands and queries.
///
/// # Errors
/// `404 unknown_tenant`, `403 tenant_suspended`.
pub fn admit(state: Option<TenantState>) -> Result<(), Refusal> {
    match state {
        Some(TenantState::Active) => Ok(()),
        Some(TenantState::Suspended) => {
            let message = "this tenant is suspended; whoever runs the fleet can resume it";
            Err(Refusal::new(403, "tenant_suspended", message))
        }
        None => {
            let message = "there is no such tenant; whoever runs the fleet can add it";
            Err(Refusal::new(404, "unknown_tenant", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_active_tenant_is_admitted() {
        let code = |state: &str| admit(TenantState::parse(state)).map_err(|refusal| refusal.code);
        assert_eq!(code("active"), Ok(()));
        assert_eq!(code("suspended"), Err("tenant_suspended".into()));
        for state in ["removed", "", "x"] {
            assert_eq!(code(state), Err("unknown_tenant".into()), "{state}");
        }
    }
}
