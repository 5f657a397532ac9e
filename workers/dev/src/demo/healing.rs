//! The read model is deleted, and healed.

use std::time::{Duration, Instant};

use anyhow::Result;
use brigade_contracts::key::Bucket;
use serde_json::json;

use super::{
    DemoFleet, Promises,
    narration::{mark, millis, say},
};

const BACK: &str = "A bucket that is deleted is there again, from SQL, by itself";
const RIGHT: &str = "Polls are answered right while it is gone";
/// Longer than any heal takes that still counts as one.
const LIMIT: Duration = Duration::from_secs(10);

const STORY: &str = r"
S5  What if the read model is gone?
    An operator deletes the bucket `views`, all of it, with everything that the screens show. Ada's
    phone goes on polling. Nobody rebuilds anything.";

pub async fn play(fleet: &mut DemoFleet, promises: &mut Promises) -> Result<()> {
    say(STORY);
    let client = &mut fleet.client;
    let cart = client.cart("deleted-view")?;
    let open = json!({ "kind": "team", "owner": "ada", "currency": "EUR" });
    client.command(&cart, "open", open).await?;
    client.command(&cart, "join", json!({ "user": "bob" })).await?;
    client.until_projected(&cart, 2).await?;
    let before = client.poll(&cart, None).await?;
    client.delete_bucket(Bucket::Views).await?;
    let deleted = Instant::now();
    let (mut polls, mut right) = (0_u32, 0_u32);
    let mut slowest = Duration::ZERO;
    let back = loop {
        let asked = Instant::now();
        let seen = client.poll(&cart, None).await?;
        slowest = slowest.max(asked.elapsed());
        let same = seen.status == 200 && seen.body == before.body && seen.etag == before.etag;
        (polls, right) = (polls + 1, right + u32::from(same));
        promises.test(RIGHT, same);
        if client.projected(&cart).await == 2 {
            break true;
        }
        if deleted.elapsed() > LIMIT {
            break false;
        }
    };
    let took = deleted.elapsed();
    promises.test(BACK, back);
    say(format!(
        "\n       {polls} polls while it was gone    {} {right} right, slowest {}",
        mark(right == polls),
        millis(slowest)
    ));
    say(format!("       the bucket was back after   {} {:.1} s", mark(back), took.as_secs_f64()));
    Ok(())
}
