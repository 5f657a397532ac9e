use brigade_contracts::{
    Aggregate, Body, Command,
    list::ListHeaders,
    page::{Day, PageHeaders},
    query::{HistoryHeaders, ViewHeaders, wait},
    subject,
};

use super::{line, wire::read_message};

/// A command as `wire::message` reads it.
pub fn command(bytes: &[u8]) {
    let message = read_message(bytes);
    let Ok(command) = Command::decode(message.subject(), message.headers(), &message.payload)
    else {
        return;
    };
    let Ok(request) = &command.request else { return };
    let (verb, payload) = request.body.encode();
    assert_eq!(Body::decode(request.address.aggregate, verb, &payload), Ok(request.body.clone()));
    // The same bytes are the same command.
    let again = Command::decode(message.subject(), message.headers(), &message.payload);
    assert_eq!(again.map(|command| command.payload_hash), Ok(command.payload_hash));
}

/// The first line is `<aggregate>.<verb>`, the rest the payload.
pub fn payload(bytes: &[u8]) {
    let Some(body) = decoded(bytes) else { return };
    let (verb, payload) = body.encode();
    assert_eq!(Body::decode(body.aggregate(), verb, &payload), Ok(body));
}

pub fn decoded(bytes: &[u8]) -> Option<Body> {
    let (name, payload) = line(bytes);
    let (aggregate, verb) = str::from_utf8(name).ok()?.split_once('.')?;
    Body::decode(Aggregate::parse(aggregate)?, verb, payload).ok()
}

/// A query as `wire::message` reads it.
pub fn query(bytes: &[u8]) {
    let message = read_message(bytes);
    let _parsed = (
        ViewHeaders::parse(message.headers()),
        ListHeaders::parse(message.headers()),
        HistoryHeaders::parse(message.headers()),
        PageHeaders::parse(message.headers()),
        Day::of(message.headers()),
        wait(message.headers()),
    );
    let text = message.subject();
    let same = |built: Option<String>| built.is_none_or(|built| built == text);
    assert!(same(subject::parse_query_view(text).map(|view| subject::query_view(&view))));
    let outcome = subject::parse_query_outcome(text);
    assert!(same(outcome.map(|(tenant, id)| subject::query_outcome(&tenant, &id))));
    let list = subject::parse_query_active_orders(text);
    assert!(same(list.map(|tenant| subject::query_active_orders(&tenant))));
    let lock = subject::parse_query_lock(text);
    assert!(same(lock.map(|lock| subject::query_lock(&lock.tenant, &lock.id))));
    let history = subject::parse_query_lock_history(text);
    assert!(same(history.map(|lock| subject::query_lock_history(&lock.tenant, &lock.id))));
    let user = subject::parse_query_user_validate(text);
    assert!(same(user.map(|user| subject::query_user_validate(&user))));
    let user = subject::parse_query_user_state(text);
    assert!(same(user.map(|user| subject::query_user_state(&user))));
}
