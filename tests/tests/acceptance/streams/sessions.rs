//! Tokens of readers: which may read a stream, and for how long.

use brigade_tests::until;
use serde_json::json;

use super::{ACTIVE, fleet, place};

#[tokio::test]
async fn a_session_that_ends_ends_its_stream() {
    let (fleet, producer, http) = fleet().await;
    let ada = http.register_and_log_in("ada").await;
    assert_eq!(ada.stream(ACTIVE, None).await.err().expect("a customer").status, 403);
    let nobody = http.with_token("ada.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    assert_eq!(nobody.stream(ACTIVE, None).await.err().expect("no session").status, 401);
    let role = async |role: &str| {
        producer.done("user.ada.change_roles", json!({ "roles": [role] })).await;
    };
    role("staff").await;
    place(&producer, "o1").await;
    let ends = fleet.edge_metrics().stream_ends.with_label_values(&["refused"]);

    // A role that is taken away, a session that is ended, all of a user's sessions.
    for n in 1..=3 {
        let ada = http.log_in("ada").await;
        let mut events = ada.stream(ACTIVE, None).await.expect("a stream");
        assert_eq!(events.next().await.expect("a snapshot").kind, "snapshot");
        match n {
            1 => role("customer").await,
            2 => drop(producer.done("user.ada.logout", json!({})).await),
            _ => drop(producer.done("user.ada.logout", json!({ "all": true })).await),
        }
        assert_eq!(events.next().await, None, "it ends");
        assert_eq!(ends.get(), n);
        let again = ada.stream(ACTIVE, Some(&events.id)).await.err().expect("refused");
        assert_eq!(again.status, if n == 1 { 403 } else { 401 });
        role("staff").await;
    }
    let gone = async || (fleet.edge_metrics().stream_readers.get() == 0).then_some(());
    until("the readers to be gone", gone).await;
    fleet.finish().await;
}
