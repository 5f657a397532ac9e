//! A user from the registration to the logout.

use rand::Rng;
use serde_json::json;

use crate::chaos::client::ChaosClient;

pub async fn play(client: &mut ChaosClient) {
    let name = client.name("eve");
    let (user, email) = (format!("user.{name}"), format!("{name}@example.org"));
    let register = json!({ "email": email, "profile_id": "p1", "password": "correct horse" });
    if !client.done(&user, "register", register).await {
        return;
    }
    let login = json!({ "email": email, "password": "correct horse" });
    client.command(&user, "login", &login).await;
    if client.random.random_ratio(1, 2) {
        // On another device.
        client.command(&user, "login", &login).await;
    }
    client.command(&user, "register_subscription", &json!({ "subscription_id": "s1" })).await;
    let activate = json!({ "subscription_id": "s1", "plan": "gold" });
    client.command(&user, "activate_subscription", &activate).await;
    client.command(&user, "change_roles", &json!({ "roles": ["customer", "staff"] })).await;
    client.command(&user, "update_profile", &json!({ "profile_id": "p2" })).await;
    client.command(&user, "cancel_subscription", &json!({ "subscription_id": "s1" })).await;
    client.command(&user, "logout", &json!({})).await;
}
