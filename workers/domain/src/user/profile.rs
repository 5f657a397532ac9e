use brigade_contracts::{
    Address, Email, Refusal, event::USER_PROFILE_UPDATED, user::UpdateProfile,
};

use super::{
    super::draft::{Done, Draft, Result},
    User,
};

pub(super) fn update(draft: &mut Draft<'_>, mut user: User, said: &UpdateProfile) -> Result<Done> {
    if said.profile_id.is_none() && said.email.is_none() {
        return Err(Refusal::new(422, "nothing_to_change", "neither profile_id nor email").into());
    }
    if let Some(email) = &said.email {
        require_free(draft, &user.head.address, email)?;
        user.email = email.clone();
    }
    if let Some(profile_id) = &said.profile_id {
        user.profile_id = profile_id.clone();
    }
    draft.record(user, USER_PROFILE_UPDATED, said);
    Ok(Done::ok())
}

/// Refuses an email that another user of the tenant has, whatever the case of its letters.
pub(super) fn require_free(draft: &mut Draft<'_>, user: &Address, email: &Email) -> Result<()> {
    match draft.owner_of(email)? {
        Some(owner) if owner != *user => {
            Err(Refusal::new(409, "email_taken", "another user has this email").into())
        }
        _ => Ok(()),
    }
}
