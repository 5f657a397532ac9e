//! Names that no user has, since they stand for somebody else where it is told who did something.

use super::{BY_EMAIL, MANAGER, ROLE_BY_DEFAULT};
use crate::{Token, WorkerName, permissions::Role};

/// The reserved names besides workers and the roles of credentials.
const RESERVED: [&str; 10] = [
    BY_EMAIL,
    ROLE_BY_DEFAULT,
    "admin",
    "brigade",
    "fleet",
    MANAGER,
    "operator",
    "root",
    "staff",
    "system",
];

/// Returns whether no user may be called so, in whatever case: it is the name of a worker, of an
/// operator, of a role or of a gateway, or what stands for an email.
#[must_use]
pub fn is_reserved(name: &Token) -> bool {
    let workers = WorkerName::ALL.into_iter().map(WorkerName::as_str);
    let roles = Role::ALL.into_iter().flat_map(|role| [Some(role.as_str()), role.alias()]);
    let reserved = RESERVED.into_iter().chain(workers).chain(roles.flatten());
    // What a gateway says by HTTP is told as said by `gateway-` and its name.
    let is_gateway =
        name.as_str().get(..8).is_some_and(|word| word.eq_ignore_ascii_case("gateway-"));
    is_gateway || reserved.into_iter().any(|reserved| reserved.eq_ignore_ascii_case(name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_workers_operators_and_roles_are_nobodys() {
        let is_reserved = |name: &str| is_reserved(&Token::new(name).unwrap());
        for name in [
            "-",
            "cart-lock-expiry",
            "command-handler",
            "edge",
            "Edge",
            "operator",
            "OPERATOR",
            "system",
            "brigade",
            "customer",
            "staff",
            "manager",
            "backend",
            "producer",
            "till",
            "gateway",
            "gateway-stripe",
            "Gateway-Simulated",
            "screen",
            "watcher",
        ] {
            assert!(is_reserved(name), "{name}");
        }
        for name in ["ada", "edge1", "operator-2", "tills", "--"] {
            assert!(!is_reserved(name), "{name}");
        }
    }
}
