//! Compares the declared configuration with the server's. Pure.

use serde_json::{Map, Value, json};

/// Settings that only inform people, and may always be brought up to date.
const INFORMATIVE: [&str; 2] = ["description", "metadata"];

/// Lists of subjects: one more loses nothing, one less does.
const SUBJECTS: [&str; 2] = ["subjects", "filter_subjects"];

/// Nobody listens yet where nothing was republished.
const REPUBLISH: &str = "republish";

/// The placement of a stream in a cluster is the operator's choice, and no promise depends on it.
const OPERATORS: [&str; 1] = ["placement"];

/// Keys of `metadata` that the server adds.
const SERVERS_KEYS: &str = "_nats.";

/// The result of a comparison.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// The configuration with what is safe to change changed; none: nothing to do.
    pub mended: Option<Value>,
    /// The settings that only an operator may change.
    pub differences: Vec<Difference>,
}

#[derive(Debug, PartialEq)]
pub(super) struct Difference {
    pub setting: String,
    /// None: not declared, and not what the server takes by default.
    pub declared: Option<Value>,
    pub found: Value,
}

/// Compares the configuration of a stream or consumer with its declaration. A setting that is not
/// declared is declared to be the server's default.
pub(super) fn compare(found: &Value, declared: &Value) -> Comparison {
    let mut differences = Vec::new();
    let mut mended = found.clone();
    let empty = Map::new();
    let declared = declared.as_object().unwrap_or(&empty);
    for (setting, declared) in declared {
        let found = &found[setting];
        if setting == "metadata" {
            let wanted = with_the_servers_keys(found, declared);
            if wanted != *found {
                mended[setting] = wanted;
            }
        } else if INFORMATIVE.contains(&setting.as_str())
            || SUBJECTS.contains(&setting.as_str()) && adds(found, declared)
            || setting == REPUBLISH && found.is_null()
        {
            mended[setting] = declared.clone();
        } else if !holds(found, declared) {
            let (declared, found) = (Some(declared.clone()), found.clone());
            differences.push(Difference { setting: setting.clone(), declared, found });
        }
    }
    for (setting, found) in found.as_object().into_iter().flatten() {
        let informative =
            INFORMATIVE.contains(&setting.as_str()) || OPERATORS.contains(&setting.as_str());
        if !declared.contains_key(setting) && !informative && !is_default(setting, found) {
            let (setting, found) = (setting.clone(), found.clone());
            differences.push(Difference { setting, declared: None, found });
        }
    }
    let mended = (mended != *found).then_some(mended);
    Comparison { mended, differences }
}

/// Returns true if a setting is as declared. The server adds defaults, so an object may hold more;
/// it leaves out what is false, 0 or empty.
fn holds(found: &Value, declared: &Value) -> bool {
    match (found, declared) {
        (Value::Object(found), Value::Object(declared)) => {
            declared.iter().all(|(key, value)| holds(found.get(key).unwrap_or(&Value::Null), value))
        }
        (Value::Null, declared) => [json!(false), json!(0), json!("")].contains(declared),
        (found, declared) => found == declared,
    }
}

/// Returns true if only subjects are added, by which nothing is lost.
fn adds(found: &Value, declared: &Value) -> bool {
    let (Some(found), Some(declared)) = (found.as_array(), declared.as_array()) else {
        return false;
    };
    found.iter().all(|subject| declared.iter().any(|declared| covers(declared, subject)))
}

/// Returns true if a subject is the same, or a token of it is where `*` is allowed.
fn covers(declared: &Value, subject: &Value) -> bool {
    let (Some(declared), Some(subject)) = (declared.as_str(), subject.as_str()) else {
        return false;
    };
    let same =
        |(declared, token): (&str, &str)| declared == token || declared == "*" && token != ">";
    declared.split('.').count() == subject.split('.').count()
        && declared.split('.').zip(subject.split('.')).all(same)
}

/// The declared metadata, and what the server tells of itself.
fn with_the_servers_keys(found: &Value, declared: &Value) -> Value {
    let mut wanted = declared.clone();
    for (key, value) in found.as_object().into_iter().flatten() {
        if key.starts_with(SERVERS_KEYS) {
            wanted[key] = value.clone();
        }
    }
    wanted
}

/// Returns true if the server gives a setting this value when nobody asks for one. A test that
/// provisions twice tells when a new server has another default.
fn is_default(setting: &str, found: &Value) -> bool {
    let empty = match found {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => [Some(0), Some(-1)].contains(&number.as_i64()),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    };
    empty
        || match setting {
            "retention" => *found == "limits",
            "discard" => *found == "old",
            "compression" => *found == "none",
            "duplicate_window" => *found == 120_000_000_000_u64,
            "num_replicas" => *found == 1,
            "max_ack_pending" => *found == 1000,
            "max_waiting" => *found == 512,
            "replay_policy" => *found == "instant",
            "pause_until" => *found == "0001-01-01T00:00:00Z",
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differing(found: Value, declared: Value) -> Vec<String> {
        let comparison = compare(&found, &declared);
        assert!(comparison.mended.is_none(), "{comparison:?}");
        comparison.differences.into_iter().map(|d| d.setting).collect()
    }

    #[test]
    fn a_default_that_the_server_leaves_out_is_no_drift() {
        assert!(holds(&Value::Null, &json!(false)));
        assert!(holds(
            &json!({"src": "a", "dest": "b", "headers_only": false}),
            &json!({"src": "a"})
        ));
        assert!(!holds(&Value::Null, &json!(true)));
        assert!(!holds(&json!(1), &json!(2)));
    }

    #[test]
    fn a_default_that_the_server_adds_is_no_drift() {
        let found = json!({"name": "S", "max_msgs": -1, "sealed": false, "duplicate_window":
            120_000_000_000_u64, "consumer_limits": {}, "compression": "none"});
        assert_eq!(differing(found, json!({"name": "S"})), Vec::<String>::new());
    }

    #[test]
    fn a_changed_setting_is_drift_whether_it_was_declared_or_not() {
        let found = json!({"max_age": 1, "max_msgs": 10, "placement": {"cluster": "c"}});
        assert_eq!(differing(found, json!({"max_age": 2})), ["max_age", "max_msgs"]);
        let paused = json!({"pause_until": "2100-01-01T00:00:00Z"});
        assert_eq!(differing(paused, json!({})), ["pause_until"]);
    }

    #[test]
    fn what_people_are_told_is_mended_and_the_servers_keys_stay() {
        let found = json!({"description": "old", "metadata": {"_nats.ver": "2", "gone": "x"}});
        let declared = json!({"description": "new", "metadata": {"writer": "w"}});
        let comparison = compare(&found, &declared);
        assert_eq!(comparison.differences, []);
        let mended = comparison.mended.unwrap();
        let metadata = json!({"_nats.ver": "2", "writer": "w"});
        assert_eq!(mended, json!({"description": "new", "metadata": metadata}));
        assert!(compare(&mended, &declared).mended.is_none());
    }

    #[test]
    fn what_is_stored_begins_to_be_republished_and_does_not_end_to_be() {
        let declared = json!({"republish": {"src": "a.>", "dest": "b.>"}});
        assert_eq!(compare(&json!({}), &declared).mended, Some(declared.clone()));
        assert_eq!(differing(declared, json!({})), ["republish"]);
        let other = json!({"republish": {"src": "a.>", "dest": "c.>"}});
        assert_eq!(differing(other, json!({"republish": {"dest": "b.>"}})), ["republish"]);
    }

    #[test]
    fn subjects_are_added_and_never_taken_away() {
        for setting in SUBJECTS {
            let comparison = compare(&json!({setting: ["a"]}), &json!({setting: ["a", "b"]}));
            assert_eq!(comparison.mended, Some(json!({setting: ["a", "b"]})));
            assert_eq!(differing(json!({setting: ["a", "b"]}), json!({setting: ["a"]})), [setting]);
        }
        assert!(adds(&json!(["a.b.07"]), &json!(["a.b.*"])));
        assert!(!adds(&json!(["a.*.b"]), &json!(["a.b.*"])));
        assert!(!adds(&json!(["a.>"]), &json!(["a.*"])) && !adds(&json!(["a"]), &json!(["a.*"])));
        // Another list of strings is not one of subjects.
        assert_eq!(differing(json!({"x": ["a"]}), json!({"x": ["a", "b"]})), ["x"]);
    }
}
