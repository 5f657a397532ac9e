use super::*;
use crate::{
    infra::Metrics,
    runtime::http::{Rate, RateLimits},
    workers::edge::admission::{AdmissionControl, UserAdmission},
};

fn admission(tenants: usize, strangers: usize, rates: RateLimits) -> HttpAdmission {
    let tenants = AdmissionControl::new(tenants);
    HttpAdmission {
        in_flight: RequestAdmission {
            users: UserAdmission::within(&tenants, 64, 64),
            strangers: AdmissionControl::new(strangers),
            tenants,
        },
        rates: Arc::new(RateBuckets::new(rates)),
        known: Arc::default(),
        metrics: Metrics::new().group(),
    }
}

/// Admits a request without a token.
fn stranger(admission: &HttpAdmission, from: &str) -> Result<RequestPermit, AdmissionError> {
    let from = from.parse().expect("an address");
    RequestPermit::unconfirmed(admission, from, ClaimedIdentity::Stranger)
}

/// Admits a request with an access token.
fn with_token(admission: &HttpAdmission, from: &str, token: &str) -> RequestPermit {
    let mut request = Request::new(axum::body::Body::empty());
    *request.uri_mut() = axum::http::Uri::from_static("/v1/t1/me");
    let token = format!("Bearer {token}.{}", "x".repeat(43));
    request.headers_mut().insert("authorization", token.parse().expect("a value"));
    let from = from.parse().expect("an address");
    RequestPermit::unconfirmed(admission, from, ClaimedIdentity::of(&request)).expect("room")
}

fn staff(tenant: &str) -> Occupant<'_> {
    Occupant { tenant, user: Some("ada"), is_staff: true }
}

#[test]
fn s5_08_a_stranger_takes_nothing_of_a_tenants_share() {
    let admission = admission(4, 8, RateLimits::default());
    let from = |address: &str| stranger(&admission, address);
    let flood: Vec<_> = (0..3).map(|_| from("192.0.2.1")).collect();
    let refused: Vec<_> = flood.iter().map(|admitted| admitted.as_ref().err()).collect();
    assert_eq!(refused, [None, None, Some(&AdmissionError::ShareExceeded)]);
    let known = from("192.0.2.2").expect("room");
    assert!(known.confirm(staff("t1")).is_ok());
    // The stranger's permit is free again, the tenant's is taken.
    let others = [from("192.0.2.2"), from("192.0.2.2")];
    assert!(others.iter().all(Result::is_ok));
    let second = others[0].as_ref().map(|other| other.confirm(staff("t1")));
    let why = second.ok().and_then(Result::err).expect("it is refused");
    assert_eq!(why.code(), "too_many");
    drop(known);
    assert!(others[1].as_ref().is_ok_and(|other| other.confirm(staff("t1")).is_ok()));
}

#[test]
fn an_address_a_user_and_a_tenant_have_a_bucket_each_and_the_machine_itself_has_none() {
    let rates = RateLimits {
        address: Rate::new(1, 4),
        login: Rate::new(1, 1),
        user: Rate::new(1, 1),
        tenant: Rate::new(1, 3),
    };
    let admission = admission(100, 100, rates);
    let from = |address: &str| stranger(&admission, address).expect("room");
    let ok = |taken: Result<(), Problem>| taken.is_ok();
    let one = from("192.0.2.1");
    let logins = [(); 2].map(|()| ok(one.take_of_address(RatePolicy::Login)));
    assert_eq!(logins, [true, false]);
    let all = [(); 5].map(|()| ok(from("192.0.2.1").take_of_address(RatePolicy::Address)));
    assert_eq!(all, [true, true, true, true, false]);
    assert!(ok(from("192.0.2.2").take_of_address(RatePolicy::Address)));
    for _ in 0..9 {
        assert!(ok(from("127.0.0.1").take_of_address(RatePolicy::Address)));
    }
    let by =
        |user, is_staff| ok(one.confirm(Occupant { tenant: "t1", user: Some(user), is_staff }));
    let guests = ["ada", "ada", "bob", "cyd"].map(|user| by(user, false));
    assert_eq!(guests, [true, false, true, false]);
    let staff = ["eve", "fay"].map(|user| by(user, true));
    assert_eq!(staff, [true, false], "what guests cannot use");
    let mut headers = HeaderMap::new();
    one.add_rate_fields(&mut headers);
    let told = headers[RATELIMIT].to_str().expect("text");
    assert!(
        told.starts_with("\"login\";r=0;t=1, ")
            && told.contains("\"guests\";r=1;t=1, \"tenant\";r=2;t=1"),
        "{told}"
    );
    let limited = &admission.metrics.http_rate_limited;
    let count = |policy| limited.with_label_values(&[policy]).get();
    assert_eq!(["address", "login", "user", "guests", "tenant"].map(count), [1, 1, 1, 1, 1]);
}

#[test]
fn who_is_known_takes_nothing_of_those_who_share_an_address() {
    let rates = RateLimits { address: Rate::new(1, 2), ..RateLimits::default() };
    let admission = admission(100, 100, rates);
    let taken = || {
        let permit = stranger(&admission, "192.0.2.1").expect("room");
        permit.take_of_address(RatePolicy::Address).is_ok().then_some(permit)
    };
    for _ in 0..9 {
        let permit = taken().expect("what was taken is given back");
        permit.confirm(staff("t1")).expect("room");
        permit.confirm(staff("t1")).expect("once");
    }
    assert_eq!([(); 3].map(|()| taken().is_some()), [true, true, false]);
}

#[test]
fn a_refresh_is_counted_by_its_token_and_not_by_its_address() {
    let rates = RateLimits { login: Rate::new(1, 1), ..RateLimits::default() };
    let admission = admission(100, 100, rates);
    let one = stranger(&admission, "192.0.2.1").expect("room");
    let logins = [(); 2].map(|()| one.take_of_address(RatePolicy::Login).is_ok());
    assert_eq!(logins, [true, false]);
    let refreshes =
        ["ada.a", "bob.b", "ada.a"].map(|token| one.take_of_refresh(token.as_bytes()).is_ok());
    assert_eq!(refreshes, [true, true, false]);
}

#[test]
fn whoever_shows_a_token_is_not_refused_for_what_strangers_do_at_his_address() {
    let rates =
        RateLimits { address: Rate::new(1, 2), user: Rate::new(1, 9), ..Default::default() };
    let admission = admission(100, 100, rates);
    let taken = |permit: RequestPermit| permit.take_first().is_ok().then_some(permit);
    let nobody = || taken(stranger(&admission, "192.0.2.1").expect("room")).is_some();
    let shows = |token: &str| taken(with_token(&admission, "192.0.2.1", token));
    assert_eq!([(); 3].map(|()| nobody()), [true, true, false]);
    let ada = shows("ada").expect("strangers use up nothing of those who show a token");
    let occupant = |user| Occupant { tenant: "t1", user: Some(user), is_staff: false };
    ada.confirm(occupant("ada")).expect("room");
    // Wrong tokens have an end, and those who are known go on.
    let wrong = ["eve", "eve", "mal"].map(|token| shows(token).is_some());
    assert_eq!(wrong, [true, true, false]);
    for _ in 0..8 {
        shows("ada").expect("her token is known").confirm(occupant("ada")).expect("room");
    }
    assert!(shows("ada").is_none(), "it counts for her rate");
    assert!(shows("bob").is_none(), "his is not known");
    let (t1, secret) = (Token::new("t1").expect("a token"), format!("bob.{}", "x".repeat(43)));
    let secret = Secret::new(secret).expect("a token");
    stranger(&admission, "192.0.2.2").expect("room").issued(&t1, &secret);
    assert!(shows("bob").is_some(), "it was issued here");
    shows("bob").expect("it is known").forget();
    assert!(shows("bob").is_none(), "it was refused");
    assert!(taken(with_token(&admission, "192.0.2.2", "bob")).is_some(), "from elsewhere");
}

#[test]
fn the_places_of_an_address_are_not_those_of_whom_it_is_known_to_have() {
    let admission = admission(100, 8, RateLimits::default());
    let user = Occupant { tenant: "t1", user: Some("ada"), is_staff: false };
    with_token(&admission, "192.0.2.1", "ada").confirm(user).expect("room");
    let strangers = [(); 3].map(|()| stranger(&admission, "192.0.2.1").ok());
    assert_eq!(strangers.each_ref().map(Option::is_some), [true, true, false]);
    with_token(&admission, "192.0.2.1", "ada").confirm(user).expect("room");
}

#[test]
fn a_refresh_that_succeeds_is_given_back_and_takes_nothing_of_strangers() {
    let rates = RateLimits { address: Rate::new(1, 1), ..RateLimits::default() };
    let admission = admission(100, 100, rates);
    let from = "192.0.2.1".parse().expect("an address");
    assert!(stranger(&admission, "192.0.2.1").expect("room").take_first().is_ok());
    let t1 = Token::new("t1").expect("a token");
    let refresh = || {
        let claimed = ClaimedIdentity::Refreshing;
        let permit = RequestPermit::unconfirmed(&admission, from, claimed).expect("room");
        permit.take_first().is_ok().then_some(permit)
    };
    for _ in 0..3 {
        let secret = Secret::new(format!("ada.{}", "x".repeat(43))).expect("a token");
        refresh().expect("the one before succeeded").issued(&t1, &secret);
    }
    assert_eq!([refresh().is_some(), refresh().is_some()], [true, false]);
}

#[test]
fn strangers_who_read_the_menu_use_up_nothing_of_those_who_are_known() {
    let rates = RateLimits { tenant: Rate::new(1, 4), ..RateLimits::default() };
    let admission = admission(100, 100, rates);
    let t1 = Token::new("t1").expect("a token");
    let reads = |n: u8| stranger(&admission, &format!("192.0.2.{n}")).map(|p| p.take_of_menu(&t1));
    let menus = [1, 2, 3, 4].map(|n| reads(n).is_ok_and(|taken| taken.is_ok()));
    assert_eq!(menus, [true, true, true, false], "they have as much as guests, in all");
    let ada = Occupant { tenant: "t1", user: Some("ada"), is_staff: false };
    with_token(&admission, "192.0.2.9", "ada").confirm(ada).expect("room");
    for _ in 0..2 {
        with_token(&admission, "192.0.2.9", "ada").take_of_menu(&t1).expect("as a guest");
    }
    assert!(with_token(&admission, "192.0.2.9", "ada").take_of_menu(&t1).is_err());
    stranger(&admission, "192.0.2.8").expect("room").confirm(staff("t1")).expect("staff has room");
}
