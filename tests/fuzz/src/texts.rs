use brigade::testing::decoders::{ListPosition, PagePlace, PageStart, PagedList, decode_unsigned};
use brigade_contracts::{CommandKey, Email, IfNoneMatch, Timestamp, Token, header, key, subject};

fn with_text(bytes: &[u8], target: impl FnOnce(&str)) {
    if let Ok(text) = str::from_utf8(bytes) {
        target(text);
    }
}

pub fn etag(bytes: &[u8]) {
    with_text(bytes, |text| {
        let Ok(IfNoneMatch::Tags(tags)) = IfNoneMatch::parse(text) else { return };
        assert!(!tags.is_empty());
        let quoted: Vec<_> = tags.iter().map(|tag| format!("\"{tag}\"")).collect();
        assert_eq!(IfNoneMatch::parse(&quoted.join(",")), Ok(IfNoneMatch::Tags(tags)));
    });
}

pub fn gateway(bytes: &[u8]) {
    let (signature, body) = super::line(bytes);
    with_text(signature, |signature| {
        let _is_event = decode_unsigned(signature, body);
    });
}

pub fn position(bytes: &[u8]) {
    with_text(bytes, |text| {
        if let Some(position) = ListPosition::parse(text) {
            assert_eq!(ListPosition::parse(&position.to_string()), Some(position));
        }
        let tenant = text.split('.').nth(1).and_then(|tenant| Token::new(tenant).ok());
        if let Some((tenant, Ok(start))) = tenant.map(|t| (t.clone(), PageStart::parse(text, &t))) {
            assert_eq!(PageStart::parse(&start.to_string(), &tenant), Ok(start));
        }
        for list in [PagedList::Tables, PagedList::EndedOrders(None), PagedList::RefundTasks(None)]
        {
            if let Ok(place) = PagePlace::parse(text, &list) {
                assert_eq!(PagePlace::parse(&place.to_word(&list), &list), Ok(place));
            }
        }
    });
}

pub fn text(bytes: &[u8]) {
    with_text(bytes, |text| {
        if let Ok(token) = Token::new(text) {
            assert_eq!(token.as_str(), text);
        }
        if let Ok(at) = Timestamp::parse(text) {
            assert_eq!(Timestamp::parse(&at.to_string()), Ok(at));
        }
        let _parsed = (
            CommandKey::parse(text),
            Email::new(text.to_owned()).is_ok(),
            header::is_traceparent(text),
        );
        let _parsed = (subject::parse_event(text, Some(text)), subject::parse_lock_due(text));
        let _parsed = (key::parse_active_order(text), subject::parse_command(text));
    });
}
