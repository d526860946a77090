use std::io::Write as _;

use camino::Utf8PathBuf;
use hearth_types::api::Verdict;

use super::*;

/// A folder with a console log.
struct Console {
    dir: Utf8PathBuf,
    _folder: tempfile::TempDir,
}

impl Console {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            dir: Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap(),
            _folder: folder,
        }
    }

    fn write(&self, text: &str) {
        let mut options = std::fs::OpenOptions::new();
        let file = options.append(true).create(true);
        let mut file = file.open(self.dir.join(CONSOLE_LOG)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn rotate(&self) {
        let path = self.dir.join(CONSOLE_LOG);
        std::fs::rename(&path, self.dir.join("console.log.1")).unwrap();
    }

    fn reader(&self) -> Reader {
        Reader::new(Some(mark(&self.dir)))
    }

    fn check(&self, reader: &mut Reader) -> Verdict {
        reader.check(&self.dir, &Wanted::default()).verdict
    }
}

const PANIC: &str =
    "[    1.0] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100\n";
const HUNG: &str = "[  242.6] INFO: task jbd2/vda-8:91 blocked for more than 120 seconds.\n";

#[test]
fn a_panic_lasts_until_the_run_ends() {
    let console = Console::new();
    let mut reader = console.reader();
    console.write("Linux version 6.1\n");
    assert_eq!(console.check(&mut reader), Verdict::Pass);
    console.write(PANIC);
    for _ in 0..3 {
        let outcome = reader.check(&console.dir, &Wanted::default());
        assert_eq!(outcome.verdict, Verdict::Fail);
        assert!(
            outcome.message.contains("Attempted to kill init"),
            "{outcome:?}"
        );
    }
    // The next run has a word of its own.
    let mut next = console.reader();
    console.write("Linux version 6.1\n");
    assert_eq!(console.check(&mut next), Verdict::Pass);
}

#[test]
fn what_passes_fails_one_check() {
    let lines = [
        HUNG,
        "Out of memory: Killed process 812 (java) total-vm:1kB\n",
        "Memory cgroup out of memory: Killed process 7 (x)\n",
        "watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [x:1]\n",
    ];
    for line in lines {
        let console = Console::new();
        let mut reader = console.reader();
        assert_eq!(console.check(&mut reader), Verdict::Pass);
        console.write(line);
        assert_eq!(console.check(&mut reader), Verdict::Fail, "{line}");
        assert_eq!(console.check(&mut reader), Verdict::Pass, "{line}");
    }
}

#[test]
fn words_alone_are_no_sign() {
    let console = Console::new();
    let mut reader = console.reader();
    assert_eq!(console.check(&mut reader), Verdict::Pass);
    console.write("job blocked for more than 5 minutes\nout of memory\npanic\n");
    assert_eq!(console.check(&mut reader), Verdict::Pass);
}

#[test]
fn a_daemon_that_comes_later_knows_the_run() {
    let console = Console::new();
    console.write(PANIC);
    let begin = mark(&console.dir);
    console.write(HUNG);
    console.write("EXT4-fs (vda): Remounting filesystem read-only\n");
    let mut reader = Reader::new(Some(begin));
    // Not the panic of the run before, not the task that hung once.
    let outcome = reader.check(&console.dir, &Wanted::default());
    assert!(outcome.message.contains("read-only"), "{outcome:?}");

    let console = Console::new();
    console.write("x\n");
    let begin = mark(&console.dir);
    console.write(HUNG);
    let mut reader = Reader::new(Some(begin));
    assert_eq!(console.check(&mut reader), Verdict::Pass);
    console.write(HUNG);
    assert_eq!(console.check(&mut reader), Verdict::Fail);
}

#[test]
fn a_log_that_is_rotated_is_read_to_its_end() {
    let console = Console::new();
    let mut reader = console.reader();
    console.write("one\n");
    assert_eq!(console.check(&mut reader), Verdict::Pass);
    console.write(HUNG);
    console.rotate();
    console.write("two\n");
    assert_eq!(console.check(&mut reader), Verdict::Fail);
    console.write(PANIC);
    assert_eq!(console.check(&mut reader), Verdict::Fail);

    // It was rotated before anybody looked: all of the new file is of this run.
    let console = Console::new();
    console.write("old\n");
    let begin = mark(&console.dir);
    console.rotate();
    console.write(PANIC);
    let mut reader = Reader::new(Some(begin));
    assert_eq!(console.check(&mut reader), Verdict::Fail);
}

#[test]
fn the_pattern_has_to_appear_even_in_a_line_without_end() {
    let console = Console::new();
    let mut reader = console.reader();
    let wanted = Wanted::new(Some("login:"), &[], false).unwrap();
    let mut check = || reader.check(&console.dir, &wanted).verdict;
    assert_eq!(check(), Verdict::Fail);
    console.write("boot\nweb log");
    assert_eq!(check(), Verdict::Fail);
    console.write("in: ");
    assert_eq!(check(), Verdict::Pass);
    console.write(&"x\n".repeat(10));
    assert_eq!(check(), Verdict::Pass);
}

#[test]
fn texts_of_ones_own_count() {
    let console = Console::new();
    let mut reader = console.reader();
    let wanted = Wanted::new(None, &["DB corrupt".to_owned()], false).unwrap();
    let mut check = || reader.check(&console.dir, &wanted).verdict;
    assert_eq!(check(), Verdict::Pass);
    console.write("error: DB cor");
    assert_eq!(check(), Verdict::Pass);
    console.write("rupt!\n");
    assert_eq!(check(), Verdict::Fail);
    assert_eq!(check(), Verdict::Pass);
}

#[test]
fn expressions_of_ones_own_count_line_by_line() {
    let console = Console::new();
    let mut reader = console.reader();
    let bad = ["^ERROR [0-9]{3}".to_owned()];
    let wanted = Wanted::new(Some(r"ready in \d+ ms"), &bad, true).unwrap();
    let mut check = || reader.check(&console.dir, &wanted);
    assert_eq!(check().verdict, Verdict::Fail);
    console.write("not ready in time\nready in\n12 ms\n");
    assert_eq!(check().verdict, Verdict::Fail);
    console.write("ready in 12 ms\nno ERROR 503\n");
    assert_eq!(check().verdict, Verdict::Pass);
    console.write("ERROR 503: gone\n");
    let outcome = check();
    assert_eq!(outcome.verdict, Verdict::Fail);
    assert!(outcome.message.contains("ERROR 503: gone"), "{outcome:?}");
    assert_eq!(check().verdict, Verdict::Pass);
    assert!(Wanted::new(None, &["(".to_owned()], true).is_err());
}

#[test]
fn a_flood_costs_little_and_its_end_counts() {
    let console = Console::new();
    let mut reader = console.reader();
    assert_eq!(console.check(&mut reader), Verdict::Pass);
    console.write(&"y".repeat(3 << 20));
    console.write("\n");
    console.write(PANIC);
    assert_eq!(console.check(&mut reader), Verdict::Fail);
    console.write(&"z".repeat(100_000));
    console.check(&mut reader);
    assert!(reader.line.len() <= LINE_MAX);
}

#[test]
fn a_link_in_the_place_of_the_log_is_not_followed() {
    let console = Console::new();
    let mut reader = console.reader();
    std::os::unix::fs::symlink("/etc/passwd", console.dir.join(CONSOLE_LOG)).unwrap();
    assert_eq!(console.check(&mut reader), Verdict::Unknown);
}
