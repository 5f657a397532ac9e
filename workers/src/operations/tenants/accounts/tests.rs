use std::os::unix::fs::PermissionsExt;

use super::{generation::generation_of, *};

fn folder() -> (tempfile::TempDir, AccountsFolder, Token) {
    let dir = tempfile::tempdir().unwrap();
    let folder = AccountsFolder::new(dir.path());
    (dir, folder, Token::new("t3").unwrap())
}

fn names(made: &[Credential]) -> Vec<&str> {
    made.iter().map(|credential| credential.user.as_str()).collect()
}

#[test]
fn credentials_are_rotated_side_by_side() {
    let (_dir, folder, t3) = folder();
    assert!(folder.add(&t3).is_err(), "the folder was never begun");
    assert_eq!(names(&folder.sync().unwrap()).len(), all_users(&[]).len());
    let first: Vec<_> = tenant_users(&t3).into_iter().map(|user| user.name).collect();
    assert_eq!(names(&folder.add(&t3).unwrap()), first);
    assert!(folder.add(&t3).is_err(), "it has credentials");
    assert!(folder.finish(&t3).is_err(), "there is nothing to end");
    let second: Vec<_> = first.iter().map(|user| format!("{user}-2")).collect();
    let made = folder.rotate(&t3).unwrap();
    assert_eq!(names(&made), second);
    assert_eq!(made[0].inbox_prefix, format!("_INBOX.{}", second[0]));
    assert!(folder.rotate(&t3).is_err(), "the last rotation is not finished");
    assert_eq!(folder.users(&t3).unwrap(), [first.clone(), second.clone()].concat());
    assert_eq!(folder.finish(&t3).unwrap(), first);
    assert_eq!(folder.users(&t3).unwrap(), second);
    assert!(names(&folder.rotate(&t3).unwrap())[0].ends_with("-3"));
    assert!(folder.remove(&t3).unwrap() && !folder.remove(&t3).unwrap());
    assert_eq!(folder.users(&t3).unwrap(), Vec::<String>::new());
}

#[test]
fn a_folder_keeps_its_passwords_from_others() {
    let (dir, folder, t3) = folder();
    folder.sync().unwrap();
    let made = folder.add(&t3).unwrap();
    let before = folder.tenant(&t3).unwrap();
    assert_eq!(folder.sync().unwrap(), []);
    assert_eq!(folder.tenant(&t3).unwrap(), before);
    for (credential, entry) in made.iter().zip(&before) {
        assert_eq!(credential.password, entry.password);
        assert_eq!(credential.password.len(), 33);
    }
    let index = || fs::read_to_string(dir.path().join("accounts.conf")).unwrap();
    assert!(index().contains(r#"{"accounts":["T-t3"],"service":"cmd.t3.>"}"#));
    folder.remove(&t3).unwrap();
    assert!(!index().contains("t3"));
}

#[test]
fn a_password_that_is_given_replaces_that_of_its_user_alone() {
    let (_dir, folder, t3) = folder();
    folder.sync().unwrap();
    let users = tenant_users(&t3);
    folder.put(&[(&users[0], "one"), (&users[1], "two")]).unwrap();
    folder.rotate(&t3).unwrap();
    folder.put(&[(&users[0], "three")]).unwrap();
    let entries = folder.tenant(&t3).unwrap();
    let password = |name: &str| {
        let entry = entries.iter().find(|entry| entry.user == name);
        entry.map(|entry| entry.password.as_str())
    };
    assert_eq!(entries.len(), 2 + users.len());
    assert_eq!((password(&users[0].name), password(&users[1].name)), (Some("three"), Some("two")));
}

#[test]
fn a_name_is_of_one_user_only() {
    for (first, name, expected) in [
        ("t3-producer", "t3-producer", Some(1)),
        ("t3-producer", "t3-producer-2", Some(2)),
        ("t3-producer", "t3-producer-1", None),
        ("t3-producer", "t3-producer-x", None),
        ("t3-producer", "t3-producer2", None),
        ("t3-producer", "t3-watcher", None),
    ] {
        assert_eq!(generation_of(first, name), expected, "{name}");
    }
}

#[test]
fn a_file_of_somebody_else_is_left_alone() {
    let (dir, folder, t3) = folder();
    folder.sync().unwrap();
    let path = dir.path().join("tenants/t3.conf");
    for text in ["\"T-t3\": { users: [] }", "{", "\"T-t4\": {\"users\": []}"] {
        fs::write(&path, text).unwrap();
        assert!(folder.rotate(&t3).is_err(), "{text}");
        assert!(folder.sync().is_err(), "{text}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn the_folders_group_reads_the_files_if_it_reads_the_folder() {
    let (dir, t3) = (tempfile::tempdir().unwrap(), Token::new("t3").unwrap());
    let folder = AccountsFolder::new(dir.path());
    folder.sync().unwrap();
    folder.add(&t3).unwrap();
    for (of_folder, of_file) in [(0o700, 0o600), (0o2750, 0o640)] {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(of_folder)).unwrap();
        folder.rotate(&t3).unwrap();
        folder.finish(&t3).unwrap();
        let mode = |file: &str| fs::metadata(dir.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode("tenants") & 0o7777, of_folder);
        assert_eq!(mode("tenants/t3.conf") & 0o777, of_file);
    }
}
