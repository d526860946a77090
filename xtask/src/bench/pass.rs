//! What the daemon costs a host on which nothing happens: processor time per VM and minute,
//! passes and health checks included. VMMs are stand-ins, whose guests never answer: that the
//! daemon goes on greeting them is in the figures, too.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::rig::{Rig, Vmm};
use super::{Case, Context, Unit, http};

/// Two full surveys at the default interval of a minute, and a health check of each VM every
/// thirty seconds.
const WINDOW: Duration = Duration::from_secs(130);
/// How long after the last start it begins: greetings are the most frequent at first.
const REST: Duration = Duration::from_secs(20);
/// Full surveys that a window must hold.
const SURVEYS: u64 = 2;

/// One case's daemon: made before each sample and removed after it. Otherwise the processes of
/// one case would be looked through by the daemon of another.
type Current = Rc<RefCell<Option<Rig>>>;

pub(crate) fn cases(context: &Context) -> anyhow::Result<Vec<Case>> {
    Ok([0, 10, 100, 1000]
        .into_iter()
        .map(|count| case(context, count))
        .collect())
}

fn case(context: &Context, count: usize) -> Case {
    let name = match count {
        0 => "no VM, the whole daemon".to_owned(),
        count => format!("{count} VMs, each"),
    };
    let current: Current = Rc::default();
    let (before, after) = (Rc::clone(&current), Rc::clone(&current));
    let folder = context.folder.join(format!("p{count}"));
    let (paths, gone) = (
        (context.folder.clone(), context.cache.clone()),
        folder.clone(),
    );
    Case::measured(name, Unit::MillisPerMinute, move || {
        let rig = current.borrow();
        let rig = rig.as_ref().context("there is no daemon")?;
        Ok(per_minute(rig)? / f64::from(u32::try_from(count.max(1))?))
    })
    .before(move || {
        *before.borrow_mut() = Some(rig(&paths, &folder, count)?);
        Ok(())
    })
    .after(move || {
        drop(after.borrow_mut().take());
        Ok(std::fs::remove_dir_all(&gone)?)
    })
}

fn rig((work, cache): &(PathBuf, PathBuf), folder: &Path, count: usize) -> anyhow::Result<Rig> {
    let context = Context {
        folder: work.clone(),
        cache: cache.clone(),
    };
    let rig = Rig::new(&context, folder, Vmm::Standin)?;
    rig.start_many(count)?;
    std::thread::sleep(REST);
    Ok(rig)
}

/// Milliseconds of processor time in a minute, nobody asking anything of the daemon meanwhile.
fn per_minute(rig: &Rig) -> anyhow::Result<f64> {
    let pid = rig.pid()?;
    let surveys = surveys(rig)?;
    let (used, begun) = (processor_time(pid)?, Instant::now());
    std::thread::sleep(WINDOW);
    let used = processor_time(pid)? - used;
    let took = begun.elapsed();
    let surveys = self::surveys(rig)? - surveys;
    ensure!(
        surveys >= SURVEYS,
        "{surveys} full surveys in {took:?}: too few"
    );
    Ok(used.as_secs_f64() * 1000.0 * 60.0 / took.as_secs_f64())
}

/// Full passes so far.
fn surveys(rig: &Rig) -> anyhow::Result<u64> {
    const NAME: &str = "hearth_reconcile_duration_seconds_count{pass=\"full\"}";
    let text = http::ask(&rig.socket, "GET", "/metrics", None)?;
    let line = text.lines().find_map(|line| line.strip_prefix(NAME));
    line.and_then(|value| value.trim().parse().ok())
        .context("the metrics do not say how many passes there were")
}

/// What a process has used, with the programs that it ran and waited for (proc(5)).
fn processor_time(pid: u32) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks = ticks(&stat).with_context(|| format!("/proc/{pid}/stat says {stat:?}"))?;
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_millis(ticks * 1000 / per_second))
}

/// utime, stime, cutime and cstime: the 14th to 17th word; the second is a name in parentheses
/// that may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, words) = stat.rsplit_once(')')?;
    let words = words.split_ascii_whitespace().skip(11).take(4);
    let times: Vec<u64> = words.map(|word| word.parse().ok()).collect::<Option<_>>()?;
    (times.len() == 4).then(|| times.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_process_and_of_what_it_ran() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 100 20 3 0 20 0 1 0 99";
        assert_eq!(ticks(stat), Some(123));
        assert_eq!(ticks("7 (short) S 1"), None);
        assert!(processor_time(std::process::id()).is_ok());
    }
}
