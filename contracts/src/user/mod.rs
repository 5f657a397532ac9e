//! Users: what can be asked of them, what is shown of them, and their tokens.

mod names;
mod passwords;
mod sessions;
mod shapes;
mod token;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    Email, MAX_NAME, NewPassword, Refusal, Secret, Text, Timestamp, Token,
    verb::{Encode, Nothing, Reason, encode_payload, verbs},
};

pub use names::is_reserved;
pub use passwords::{ChangeEmail, ChangePassword, Erase, RequestPasswordReset, ResetPassword};
pub use sessions::{MAX_SESSIONS, Sessions, ShownSession};
pub use shapes::{
    Auth, MANAGER, ROLE_BY_DEFAULT, Roles, ShownAuth, Status, Subscription, SubscriptionPart,
    SubscriptionStatus, Tokens, UserState, Valid,
};
pub use token::{Random, next_refresh_token, session_of, token, user_of};

/// Stands for the id of a user where only the email is known: in the subject of `login`. No user is
/// called so.
pub const BY_EMAIL: &str = "-";
/// Most roles of a user.
pub const MAX_ROLES: usize = 32;

verbs! {
    /// The verbs of a user.
    pub enum Verb {
        /// 201. Creates the user. Request door only.
        "register" => Register(Register),
        /// Begins a session beside those that there are. Request door only.
        "login" => Login(Login),
        /// New tokens for the session. Request door only.
        "refresh" => Refresh(Refresh),
        /// Ends the session that it is sent in, or all of them.
        "logout" => Logout(Logout),
        /// Ends one session, whichever it is sent in.
        "end_session" => EndSession(EndSession),
        /// Changes the password, and ends all other sessions. Request door only.
        "change_password" => ChangePassword(ChangePassword),
        /// Changes the email. Request door only.
        "change_email" => ChangeEmail(ChangeEmail),
        /// Has a token sent to the user by which he can choose a new password. The answer is the
        /// same whoever there is. Request door only.
        "request_password_reset" => RequestPasswordReset(RequestPasswordReset),
        /// Chooses a new password by a token that was sent, and ends all sessions. Request door
        /// only.
        "reset_password" => ResetPassword(ResetPassword),
        /// Ends all sessions; until `resume` nobody logs in.
        "suspend" => Suspend(Reason),
        /// Ends the suspension.
        "resume" => Resume(Nothing),
        /// Removes what is known of the person, and ends the account. What is done stays under the
        /// id. Request door only.
        "erase" => Erase(Erase),
        /// Changes what is given, and leaves the rest.
        "update_profile" => UpdateProfile(UpdateProfile),
        /// From now on the user has these roles and no others.
        "change_roles" => ChangeRoles(ChangeRoles),
        /// Notes a subscription, which is not active yet.
        "register_subscription" => RegisterSubscription(Subscribe),
        /// Makes a registered subscription active, or renews an active one.
        "activate_subscription" => ActivateSubscription(Subscribe),
        /// Ends the subscription.
        "cancel_subscription" => CancelSubscription(Subscribe),
    }
}

/// No `Serialize` of what holds a secret: only [`Encode`] writes it.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Register {
    pub email: Email,
    pub profile_id: Token,
    pub password: NewPassword,
}

#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    pub email: Email,
    pub password: Secret,
    /// The name of the session, such as that of the device, for the list of sessions.
    pub session_name: Option<Text<MAX_NAME>>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Refresh {
    pub refresh_token: Secret,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Logout {
    /// True: every session of the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndSession {
    /// As the list of sessions names it.
    pub session: Token,
}

/// The payload of `q.<tenant>.user.<id>.validate`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Validate {
    pub access_token: Secret,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateProfile {
    pub profile_id: Option<Token>,
    pub email: Option<Email>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeRoles {
    #[schemars(length(max = MAX_ROLES))]
    pub roles: Vec<Token>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Subscribe {
    pub subscription_id: Token,
    pub plan: Option<Text<MAX_NAME>>,
    pub until: Option<Timestamp>,
}

impl Encode for Register {
    fn encode(&self) -> Vec<u8> {
        let Self { email, profile_id, password } = self;
        let password = password.secret().expose();
        encode_payload(&json!({"email": email, "password": password, "profile_id": profile_id}))
    }
}

impl Encode for Login {
    fn encode(&self) -> Vec<u8> {
        let mut payload = json!({"email": self.email, "password": self.password.expose()});
        if let Some(name) = &self.session_name {
            payload["session_name"] = json!(name);
        }
        encode_payload(&payload)
    }
}

impl Encode for Refresh {
    fn encode(&self) -> Vec<u8> {
        encode_payload(&json!({"refresh_token": self.refresh_token.expose()}))
    }
}

impl Validate {
    /// The payload, for sending.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_payload(&json!({"access_token": self.access_token.expose()}))
    }

    /// # Errors
    /// 400 for what is not this JSON, without a quotation of it; `401 invalid_token` for what
    /// cannot be a token.
    pub fn decode(payload: &[u8]) -> Result<Self, Refusal> {
        crate::verb::decode_payload(payload).map_err(|refusal| match refusal.status {
            400 => unquoted(refusal),
            _ => Refusal::new(401, "invalid_token", "this is not the token of a session"),
        })
    }
}

/// Removes the message of serde, which may quote the payload, from a refusal: refusals are stored.
/// Only the code stays if the payload holds a secret; and the name of a field that is missing, which
/// is not the payload's.
pub(crate) fn unquoted(refusal: Refusal) -> Refusal {
    if refusal.status == 400 && refusal.code != "missing_field" {
        let message = "the payload is not what is asked for; it is not quoted, for it may hold a \
                       secret";
        return Refusal { message: message.into(), param: None, ..refusal };
    }
    refusal
}
