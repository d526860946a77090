//! Threads that wait in the kernel and hear no signal (state D), and for what.
//!
//! A moment of it is normal: every read of a disk is one. Ask when something takes too long.
//! Nothing here waits itself: `stat`, `wchan`, `syscall`, `stack` of a thread are read without its
//! memory's lock, unlike `cmdline` and `environ`. What may not be read (`stack` needs
//! `CAP_SYS_ADMIN`, and a kernel with `CONFIG_STACKTRACE`) is [`Survey::Unknown`], never empty.

use std::fmt;
use std::io::{self, Read as _};

use hearth_types::survey::Survey;

mod everywhere;

pub use everywhere::{Held, everywhere};

/// The most threads that are described of one process.
const THREADS_MAX: usize = 16;
/// The most lines of a kernel stack; the kernel's own limit is 64 (`MAX_STACK_TRACE_DEPTH`, fs/proc/base.c).
const LINES_MAX: usize = 64;
/// The most that is read of a file of `/proc`, in bytes.
const FILE_MAX: u64 = 16 << 10;

/// A thread in state D.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelWait {
    /// Its process.
    pub pid: i32,
    /// The thread.
    pub tid: i32,
    /// Its name.
    pub name: String,
    /// The kernel's function in which it waits.
    pub channel: Survey<String>,
    /// The number of the system call that it is in (`asm/unistd_64.h`).
    pub syscall: Survey<String>,
    /// The kernel's functions, the innermost first.
    pub stack: Survey<Vec<String>>,
}

impl fmt::Display for KernelWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tid, name) = (self.tid, &self.name);
        write!(
            f,
            "thread {tid} ({name}) of process {} waits in the kernel",
            self.pid
        )?;
        match &self.channel {
            Survey::Known(channel) => write!(f, " in {channel}")?,
            Survey::Unknown(why) => write!(f, " (where is unknown: {why})")?,
        }
        match &self.syscall {
            Survey::Known(number) => write!(f, ", system call {number}")?,
            Survey::Unknown(why) => write!(f, ", system call unknown: {why}")?,
        }
        match &self.stack {
            Survey::Known(stack) => write!(f, ", stack: {}", stack.join(" < ")),
            Survey::Unknown(why) => write!(f, ", stack unknown: {why}"),
        }
    }
}

/// The threads of a process that are in state D; none when it is gone. Those of which not even the state
/// could be read are left out only if they are gone.
///
/// # Errors
/// When its threads cannot be listed or looked at.
pub fn of_process(pid: i32) -> io::Result<Vec<KernelWait>> {
    let tasks = match std::fs::read_dir(format!("/proc/{pid}/task")) {
        Ok(tasks) => tasks,
        Err(error) if gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for task in tasks {
        let task = match task {
            Ok(task) => task,
            Err(error) if gone(&error) => continue,
            Err(error) => return Err(error),
        };
        let Some(tid) = task.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let stat = match read(pid, tid, "stat") {
            Ok(stat) => stat,
            Err(error) if gone(&error) => continue,
            Err(error) => return Err(error),
        };
        if let Some(name) = uninterruptible(&stat) {
            found.push(describe(pid, tid, name.to_owned()));
            if found.len() == THREADS_MAX {
                break;
            }
        }
    }
    Ok(found)
}

/// The processes that this process' threads have started and that live. Their own children are not
/// among them.
///
/// # Errors
/// When they cannot be listed; the kernel needs `CONFIG_PROC_CHILDREN`.
pub fn children() -> io::Result<Vec<i32>> {
    let mut children = Vec::new();
    for task in std::fs::read_dir("/proc/self/task")? {
        let list = std::fs::read_to_string(task?.path().join("children"));
        match list {
            Ok(list) => children.extend(
                list.split_whitespace()
                    .filter_map(|pid| pid.parse::<i32>().ok()),
            ),
            Err(error) if gone(&error) && !children_hidden() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(children)
}

/// Whether the kernel lists no children at all.
fn children_hidden() -> bool {
    !std::path::Path::new("/proc/thread-self/children").exists()
}

/// What a thread waits for, as far as that may be known.
#[must_use]
pub fn describe(pid: i32, tid: i32, name: String) -> KernelWait {
    let channel = field(pid, tid, "wchan", |text| match text.trim() {
        // What the kernel says to those who may not know, and of a thread that waits no more.
        "" | "0" => Err("the kernel does not say".to_owned()),
        channel => Ok(channel.to_owned()),
    });
    let syscall = field(pid, tid, "syscall", |text| {
        // Behind the number are addresses, which are nobody's business.
        let word = text.split_whitespace().next().unwrap_or("running");
        word.parse::<i64>()
            .map(|number| number.to_string())
            .map_err(|_| format!("it is {word} by now"))
    });
    let stack = field(pid, tid, "stack", |text| {
        let lines: Vec<_> = text.lines().take(LINES_MAX).map(function).collect();
        if lines.is_empty() {
            Err("the kernel does not say".to_owned())
        } else {
            Ok(lines)
        }
    });
    KernelWait {
        pid,
        tid,
        name,
        channel,
        syscall,
        stack,
    }
}

fn field<T>(
    pid: i32,
    tid: i32,
    file: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Survey<T> {
    match read(pid, tid, file) {
        Ok(text) => parse(&text).map_or_else(Survey::Unknown, Survey::Known),
        Err(error) => Survey::Unknown(format!("{file}: {error}")),
    }
}

/// `[<0>] folio_wait_bit_common+0x13d/0x350` is `folio_wait_bit_common`; of a module's function the
/// module is kept: `dm_wait_for_completion [dm_mod]`.
fn function(line: &str) -> String {
    let line = line.trim();
    let module = line
        .rsplit(' ')
        .next()
        .filter(|word| word.starts_with('[') && word.ends_with(']') && !word.starts_with("[<"));
    let line = module
        .and_then(|module| line.strip_suffix(module))
        .unwrap_or(line);
    let name = line.trim().rsplit(' ').next().unwrap_or(line);
    let name = name.split('+').next().unwrap_or(name);
    match module {
        Some(module) => format!("{name} {module}"),
        None => name.to_owned(),
    }
}

/// The name of a thread in state D; `None` for any other.
fn uninterruptible(stat: &str) -> Option<&str> {
    // The name may contain anything, also parentheses.
    let (open, close) = (stat.find('(')?, stat.rfind(')')?);
    let state = stat.get(close + 1..)?.split_whitespace().next()?;
    (state == "D").then(|| stat.get(open + 1..close)).flatten()
}

fn read(pid: i32, tid: i32, file: &str) -> io::Result<String> {
    let file = std::fs::File::open(format!("/proc/{pid}/task/{tid}/{file}"))?;
    let mut bytes = Vec::new();
    file.take(FILE_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    /// A process whose parent waits, as vfork(2) says, in state D until it is gone: the child
    /// sleeps. The parent can be killed all the same.
    struct Stuck(Child);

    impl Stuck {
        fn new() -> Option<Self> {
            // clone(CLONE_VFORK | SIGCHLD); 56 is its number on x86-64.
            let script = "my $p = syscall(56, 0x4000 | 17, 0, 0, 0, 0); \
                          if ($p == 0) { $0 = 'sleeper'; select(undef, undef, undef, 600); exit 0 }";
            let perl = Command::new("perl")
                .args(["-e", script])
                .stdin(Stdio::null())
                .spawn();
            perl.ok().map(Self)
        }

        fn pid(&self) -> i32 {
            i32::try_from(self.0.id()).unwrap()
        }
    }

    #[test]
    fn the_same_thread_is_found_among_all_of_the_host_and_has_not_moved() {
        let Some(stuck) = cfg!(target_arch = "x86_64").then(Stuck::new).flatten() else {
            println!("SKIP: perl on x86-64 is needed");
            return;
        };
        let long = || Instant::now() + Duration::from_secs(30);
        let give_up = long();
        let mut before: Option<Held> = None;
        loop {
            let all = everywhere(long()).unwrap();
            let held = all.into_iter().find(|held| held.pid == stuck.pid());
            match (held, &before) {
                // Twice the same, to the number of its switches: it has not moved.
                (Some(held), Some(before)) if held == *before => {
                    assert_eq!((held.tid, held.name.as_str()), (stuck.pid(), "perl"));
                    break;
                }
                (held, _) => before = held,
            }
            assert!(Instant::now() < give_up, "it never waited");
            std::thread::yield_now();
        }
        let late = everywhere(Instant::now()).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    }

    impl Drop for Stuck {
        fn drop(&mut self) {
            let file = format!("/proc/{0}/task/{0}/children", self.0.id());
            let children = std::fs::read_to_string(file).unwrap_or_default();
            for child in children.split_whitespace() {
                let pid = child.parse().ok().and_then(rustix::process::Pid::from_raw);
                if let Some(pid) = pid {
                    rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
                }
            }
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }

    #[test]
    fn a_thread_that_hears_no_signal_is_found_with_what_may_be_known() {
        if cfg!(not(target_arch = "x86_64")) {
            println!("SKIP: the test makes a system call by its number on x86-64");
            return;
        }
        let Some(stuck) = Stuck::new() else {
            println!("SKIP: perl is not installed");
            return;
        };
        let give_up = Instant::now() + Duration::from_secs(30);
        let waits = loop {
            let waits = of_process(stuck.pid()).unwrap();
            // Its exec may be seen waiting, too, and a moment without a system call.
            let other = |wait: &KernelWait| matches!(&wait.syscall, Survey::Known(number) if number != "56");
            if !waits.is_empty() && !waits.iter().any(other) {
                break waits;
            }
            assert!(Instant::now() < give_up, "it never waited");
            std::thread::yield_now();
        };
        let [wait] = waits.as_slice() else {
            panic!("{waits:?}")
        };
        assert_eq!((wait.pid, wait.tid), (stuck.pid(), stuck.pid()));
        assert_eq!(wait.name, "perl");
        // A sandbox may show less; then it says why.
        if let Survey::Known(number) = &wait.syscall {
            assert_eq!(number, "56");
        }
        match &wait.stack {
            Survey::Known(stack) => assert!(!stack.is_empty()),
            Survey::Unknown(why) => assert!(!why.is_empty()),
        }
        let said = wait.to_string();
        assert!(said.contains("(perl)") && said.contains("stack"), "{said}");
        assert!(children().unwrap().contains(&stuck.pid()));
    }

    #[test]
    fn who_runs_or_is_gone_does_not_wait() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        // It may still be in its exec.
        let give_up = Instant::now() + Duration::from_secs(30);
        while !of_process(pid).unwrap().is_empty() {
            assert!(Instant::now() < give_up);
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(of_process(pid).unwrap(), []);
    }

    #[test]
    fn lines_of_proc_are_understood() {
        let name = uninterruptible("12 (a) b (c)) D 1 12 12");
        assert_eq!(name, Some("a) b (c)"));
        assert_eq!(uninterruptible("12 (sleep) S 1 12 12"), None);
        assert_eq!(uninterruptible("12 (D) R 1"), None);
        assert_eq!(uninterruptible(""), None);
        let line = "[<0>] folio_wait_bit_common+0x13d/0x350";
        assert_eq!(function(line), "folio_wait_bit_common");
        assert_eq!(function("[<0>] 0xffffffff"), "0xffffffff");
        let of_module = "[<0>] dm_wait_for_completion+0x9e/0x1a0 [dm_mod]\n";
        assert_eq!(function(of_module), "dm_wait_for_completion [dm_mod]");
        assert_eq!(
            (function(""), function("[x]")),
            (String::new(), " [x]".to_owned())
        );
    }
}
