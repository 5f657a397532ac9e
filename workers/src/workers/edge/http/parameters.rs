//! The parameters in the query of a path: which of them a route takes, and how it is told that one
//! cannot be read.

use brigade_contracts::{Refusal, header::bad};

use crate::runtime::http::Problem;

/// The routes that take any, and which ones.
const TAKEN: [(&str, &[&str]); 11] = [
    ("/v1/{tenant}/active-orders", &["limit", "after"]),
    ("/v1/{tenant}/products", &["limit", "after"]),
    ("/v1/{tenant}/tables", &["limit", "after"]),
    ("/v1/{tenant}/ended-orders", &["limit", "after", "day"]),
    ("/v1/{tenant}/refund-tasks", &["limit", "after", "payment"]),
    ("/v1/{tenant}/unknown-payments", &["limit", "after"]),
    ("/v1/{tenant}/locks/{owner}/history", &["limit", "before"]),
    ("/v1/{tenant}/me/carts", &["limit", "after"]),
    ("/v1/{tenant}/me/orders", &["limit", "after"]),
    ("/v1/{tenant}/day-close", &["from", "to"]),
    ("/v1/{tenant}/sessions", &["cookies"]),
];

/// Returns the parameters that a route takes.
pub(super) fn taken(route: &str) -> &'static [&'static str] {
    TAKEN.iter().find(|(of, _)| *of == route).map_or(&[], |(_, names)| *names)
}

/// Refuses a parameter that a route does not take: whoever sends it believes that it does something.
///
/// # Errors
/// `400 unknown_parameter`.
pub(super) fn require_known(route: &str, query: Option<&str>) -> Result<(), Refusal> {
    let known = taken(route);
    let unknown = names(query).find(|name| !known.contains(&name.as_str()));
    unknown.map_or(Ok(()), |name| Err(unknown_parameter(known, name)))
}

fn unknown_parameter(known: &[&str], name: String) -> Refusal {
    let message = match known {
        [] => "this path takes no parameters".to_owned(),
        known => format!("this path takes the parameters {} alone", known.join(", ")),
    };
    Refusal::new(400, "unknown_parameter", message).of_param(name)
}

/// The refusal of a parameter that cannot be read.
#[must_use]
pub(super) fn bad_parameter(name: &str) -> Refusal {
    let message = format!("the parameter {name} is repeated or malformed");
    Refusal::new(400, "bad_header", message).of_param(name.to_owned())
}

/// Tells of a parameter what is told of the header that says the same over NATS.
pub(super) fn told_of_parameter(problem: Problem, query: Option<&str>) -> Problem {
    let header = problem.param().filter(|_| problem.code() == "bad_header").map(str::to_owned);
    let Some(header) = header else { return problem };
    let parameter = header.to_ascii_lowercase();
    if !names(query).any(|name| name == parameter) {
        return problem;
    }
    // What is said of the value itself stays.
    if problem == bad(&header).into() {
        bad_parameter(&parameter).into()
    } else {
        problem.of_param(&parameter)
    }
}

fn names(query: Option<&str>) -> impl Iterator<Item = String> {
    let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    pairs.map(|(name, _)| name.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_that_does_nothing_is_refused_by_its_name() {
        let list = "/v1/{tenant}/tables";
        for query in [None, Some(""), Some("limit=5"), Some("after=x&limit=5")] {
            assert_eq!(require_known(list, query), Ok(()), "{query:?}");
        }
        for (route, query, name) in [
            (list, "limit=5&ofset=7", "ofset"),
            (list, "Limit=5", "Limit"),
            (list, "a%20b", "a b"),
            ("/v1/{tenant}/me", "limit=5", "limit"),
        ] {
            let refusal = require_known(route, Some(query)).unwrap_err();
            assert_eq!((refusal.status, &*refusal.code), (400, "unknown_parameter"), "{query}");
            assert_eq!(refusal.param.as_deref(), Some(name));
        }
    }

    #[test]
    fn what_is_wrong_with_a_parameter_is_not_told_of_a_header() {
        let told = |query| told_of_parameter(bad("From").into(), query);
        assert_eq!(told(Some("from=yesterday")).param(), Some("from"));
        assert!(!String::from_utf8(told(Some("from=x")).body()).unwrap().contains("header From"));
        assert_eq!(told(Some("to=x")).param(), Some("From"));
        assert_eq!(told(None), bad("From").into());
    }

    #[test]
    fn what_is_said_of_a_value_is_said_of_the_parameter() {
        let late = Refusal { message: "too late".into(), ..bad("To") };
        let told = told_of_parameter(late.into(), Some("to=x"));
        assert_eq!(told, Refusal { message: "too late".into(), ..bad("to") }.into());
    }
}
