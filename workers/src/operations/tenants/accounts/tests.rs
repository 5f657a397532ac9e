use super::*;

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
    let first: Vec<_> = users_of(&t3).into_iter().map(|user| user.name).collect();
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
fn a_folder_keeps_its_hashes_and_shows_no_password() {
    let (dir, folder, t3) = folder();
    let fleet = folder.sync().unwrap();
    let made = folder.add(&t3).unwrap();
    let before = folder.tenant(&t3).unwrap();
    assert_eq!(folder.sync().unwrap(), []);
    assert_eq!(folder.tenant(&t3).unwrap(), before);
    for (credential, entry) in made.iter().zip(&before) {
        assert!(bcrypt::verify(&credential.password, &entry.password).unwrap());
    }
    let read = |file: &str| fs::read_to_string(dir.path().join(file)).unwrap();
    let files = ["accounts.conf", "fleet.conf", "tenants/t3.conf"].map(read);
    for credential in fleet.iter().chain(&made) {
        assert!(files.iter().all(|file| !file.contains(&credential.password)));
    }
    assert!(files[0].contains(r#"{"accounts":["T-t3"],"service":"cmd.t3.>"}"#));
    folder.remove(&t3).unwrap();
    assert!(!read("accounts.conf").contains("t3"));
}

#[test]
fn a_password_that_is_given_is_hashed_once() {
    let (_dir, folder, t3) = folder();
    folder.sync().unwrap();
    let users = users_of(&t3);
    let given = [(&users[0], "one")];
    folder.put(&given).unwrap();
    let before = folder.tenant(&t3).unwrap();
    folder.put(&given).unwrap();
    assert_eq!(folder.tenant(&t3).unwrap(), before);
    folder.rotate(&t3).unwrap();
    folder.put(&[(&users[0], "two")]).unwrap();
    assert_eq!(folder.users(&t3).unwrap().len(), 1 + users.len());
    assert!(!folder.tenant(&t3).unwrap().contains(&before[0]));
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
