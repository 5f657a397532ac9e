//! What changes how a user is let in.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::{
    Email, NewPassword, Secret,
    verb::{Encode, encode_payload},
};

#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangePassword {
    /// The present one.
    pub password: Secret,
    pub new_password: NewPassword,
}

#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeEmail {
    pub email: Email,
    /// A backend may leave it out.
    pub password: Option<Secret>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Erase {
    /// A backend and a manager may leave it out.
    pub password: Option<Secret>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestPasswordReset {
    pub email: Email,
}

#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResetPassword {
    pub reset_token: Secret,
    pub new_password: NewPassword,
}

impl Encode for ChangePassword {
    fn encode(&self) -> Vec<u8> {
        let (old, new) = (self.password.expose(), self.new_password.secret().expose());
        encode_payload(&json!({ "password": old, "new_password": new }))
    }
}

impl Encode for ChangeEmail {
    fn encode(&self) -> Vec<u8> {
        let password = self.password.as_ref().map(Secret::expose);
        encode_payload(&json!({ "email": self.email, "password": password }))
    }
}

impl Encode for Erase {
    fn encode(&self) -> Vec<u8> {
        encode_payload(&json!({ "password": self.password.as_ref().map(Secret::expose) }))
    }
}

impl Encode for RequestPasswordReset {
    fn encode(&self) -> Vec<u8> {
        encode_payload(&json!({ "email": self.email }))
    }
}

impl Encode for ResetPassword {
    fn encode(&self) -> Vec<u8> {
        let (token, new) = (self.reset_token.expose(), self.new_password.secret().expose());
        encode_payload(&json!({ "reset_token": token, "new_password": new }))
    }
}
