use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};

use super::*;

const PATH_VARIABLE: &str = "HEARTH_TEST_LOCK_PATH";

fn since() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

/// Not a test of its own: what the second process runs. Holds the lock until its standard
/// input ends.
#[test]
fn second_process() {
    let Ok(path) = std::env::var(PATH_VARIABLE) else {
        return;
    };
    match LockFile::acquire(Utf8Path::new(&path), since()) {
        Ok(_lock) => {
            println!("\nanswer: locked");
            std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
        }
        Err(error) => println!("\nanswer: {error}"),
    }
}

struct Second {
    child: Child,
    stdin: Option<ChildStdin>,
    answer: String,
}

impl Second {
    fn start(path: &Utf8Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "lock::tests::second_process", "--nocapture"])
            .env(PATH_VARIABLE, path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let answer = lines
            .map(Result::unwrap)
            .find_map(|line| line.strip_prefix("answer: ").map(str::to_owned))
            .unwrap();
        Self {
            child,
            stdin,
            answer,
        }
    }

    fn end(mut self) {
        drop(self.stdin.take());
        self.child.wait().unwrap();
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn lock_path(dir: &tempfile::TempDir) -> Utf8PathBuf {
    Utf8PathBuf::try_from(dir.path().join("lock")).unwrap()
}

#[test]
fn a_second_process_is_refused_and_told_by_whom() {
    let dir = tempfile::tempdir().unwrap();
    let path = lock_path(&dir);
    let lock = LockFile::acquire(&path, since()).unwrap();
    let second = Second::start(&path);
    assert!(
        second
            .answer
            .contains(&format!("process {} (", std::process::id()))
            && second.answer.contains("since 2026-01-02T03:04:05Z"),
        "{}",
        second.answer
    );
    second.end();
    drop(lock);
    let third = Second::start(&path);
    assert_eq!(third.answer, "locked");
    third.end();
}

#[test]
fn a_killed_holder_leaves_no_lock_but_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = lock_path(&dir);
    let second = Second::start(&path);
    assert_eq!(second.answer, "locked");
    let pid = second.child.id();
    let Err(LockError::Held { holder, .. }) = LockFile::acquire(&path, since()) else {
        panic!("the lock is not held");
    };
    assert_eq!(holder.unwrap().pid, pid);
    second.kill();
    let lock = LockFile::acquire(&path, since()).unwrap();
    let text = std::fs::read(&path).unwrap();
    let holder: Holder = serde_json::from_slice(&text).unwrap();
    assert_eq!(holder.pid, std::process::id());
    drop(lock);
}

#[test]
fn foreign_content_is_no_lock() {
    let dir = tempfile::tempdir().unwrap();
    let path = lock_path(&dir);
    for content in ["", "4711\n", "{\"pid\": \"x\"", &"long ".repeat(1000)] {
        std::fs::write(&path, content).unwrap();
        drop(LockFile::acquire(&path, since()).unwrap());
    }
    let held = LockFile::acquire(&path, since()).unwrap();
    std::fs::write(&path, "junk").unwrap();
    let refused = LockFile::acquire(&path, since()).unwrap_err();
    assert!(matches!(refused, LockError::Held { holder: None, .. }));
    drop(held);
}

#[test]
fn a_link_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let path = lock_path(&dir);
    let target = dir.path().join("precious");
    std::fs::write(&target, "precious").unwrap();
    std::os::unix::fs::symlink(&target, &path).unwrap();
    assert!(matches!(
        LockFile::acquire(&path, since()),
        Err(LockError::Io { what: "open", .. })
    ));
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious");
}

#[test]
fn a_program_that_is_started_does_not_hold_the_lock() {
    let dir = tempfile::tempdir().unwrap();
    let path = lock_path(&dir);
    let lock = LockFile::acquire(&path, since()).unwrap();
    let mut child = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // It has gone through its exec when it answers.
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"x").unwrap();
    let mut answer = [0];
    child
        .stdout
        .take()
        .unwrap()
        .read_exact(&mut answer)
        .unwrap();
    drop(lock);
    drop(LockFile::acquire(&path, since()).unwrap());
    drop(stdin);
    child.wait().unwrap();
}

#[test]
fn the_content_is_json_with_pid_time_and_command() {
    let dir = tempfile::tempdir().unwrap();
    let path = lock_path(&dir);
    let lock = LockFile::acquire(&path, since()).unwrap();
    let text: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(text["pid"], std::process::id());
    assert_eq!(text["since"], "2026-01-02T03:04:05Z");
    assert!(!text["command"].as_str().unwrap().is_empty());
    drop(lock);
}
