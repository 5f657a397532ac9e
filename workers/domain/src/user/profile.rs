use brigade_contracts::{
    Address, Email, Refusal, event::USER_PROFILE_UPDATED, user::UpdateProfile,
};

use crate::{
    changes::Fact,
    outcome::{Done, Result},
    state::User,
    unit_of_work::UnitOfWork,
};

pub(super) fn update(
    work: &mut UnitOfWork<'_>,
    address: &Address,
    update: &UpdateProfile,
) -> Result<Done> {
    let user = work.existing::<User>(address)?;
    let UpdateProfile { profile_id, email } = update;
    if profile_id.is_none() && email.is_none() {
        return Err(Refusal::new(422, "nothing_to_change", "neither profile_id nor email").into());
    }
    if let Some(email) = email {
        require_free(work, address, email)?;
        work[user].email = email.clone();
    }
    if let Some(profile_id) = profile_id {
        work[user].profile_id = profile_id.clone();
    }
    work.record(user, Fact::new(USER_PROFILE_UPDATED, update));
    Ok(Done::ok())
}

/// Refuses an email that another user of the tenant has, whatever the case of its letters.
pub(super) fn require_free(work: &UnitOfWork<'_>, user: &Address, email: &Email) -> Result<()> {
    match work.owner_of_email(email)? {
        Some(owner) if owner != user => {
            Err(Refusal::new(409, "email_taken", "another user has this email").into())
        }
        _ => Ok(()),
    }
}
