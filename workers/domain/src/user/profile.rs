use brigade_contracts::{
    Address, Email, Refusal,
    event::{USER_EMAIL_CHANGED, USER_PROFILE_UPDATED},
    user::{ChangeEmail, UpdateProfile},
};
use serde_json::json;

use super::{account::require_active, passwords};

use crate::{
    changes::Fact,
    outcome::{Done, Result},
    security::SecurityKind,
    state::User,
    unit_of_work::UnitOfWork,
};

/// The host of the emails that erased users are left with; `invalid` is nobody's (RFC 2606).
pub(super) const ERASED_HOST: &str = "@erased.invalid";

pub(super) fn update(
    work: &mut UnitOfWork<'_>,
    address: &Address,
    update: &UpdateProfile,
) -> Result<Done> {
    let user = work.existing::<User>(address)?;
    let UpdateProfile { profile_id, email } = update;
    if email.is_some() {
        let message = "the email is changed by change_email, which no stream stores";
        return Err(Refusal::new(422, "email_not_here", message).into());
    }
    let Some(profile_id) = profile_id else {
        return Err(Refusal::new(422, "nothing_to_change", "no profile_id").into());
    };
    work[user].profile_id = profile_id.clone();
    work.record(user, Fact::new(USER_PROFILE_UPDATED, &json!({ "profile_id": profile_id })));
    Ok(Done::ok())
}

pub(super) fn change_email(
    work: &mut UnitOfWork<'_>,
    address: &Address,
    change: &ChangeEmail,
) -> Result<Done> {
    let user = work.existing::<User>(address)?;
    require_active(work, user)?;
    if change.password.is_some() {
        passwords::require(work, user)?;
    }
    require_free(work, address, &change.email)?;
    work[user].email = change.email.clone();
    work[user].reset = None;
    work.record(user, Fact::new(USER_EMAIL_CHANGED, &json!({})));
    work.log(SecurityKind::EmailChanged, address, json!({}));
    Ok(Done::ok())
}

/// Refuses an email that another user of the tenant has, whatever the case of its letters, and one
/// that another user will need when he is erased.
pub(super) fn require_free(work: &UnitOfWork<'_>, user: &Address, email: &Email) -> Result<()> {
    if email.folded().ends_with(ERASED_HOST) {
        let message = "emails of this host are those of users who were erased";
        return Err(Refusal::new(422, "bad_email", message).into());
    }
    match work.owner_of_email(email)? {
        Some(owner) if owner != user => {
            Err(Refusal::new(409, "email_taken", "another user has this email").into())
        }
        _ => Ok(()),
    }
}
