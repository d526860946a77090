//! What a process uses: CPU time and memory, from /proc.

use std::io;

/// A process' use of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// CPU time in user and kernel mode, in milliseconds.
    pub cpu_millis: u64,
    /// Resident memory in bytes.
    pub rss_bytes: u64,
}

/// Reads a living process' use.
///
/// # Errors
/// When the process is gone, or /proc cannot be read.
pub fn of(pid: i32) -> io::Result<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse(
        &stat,
        rustix::param::clock_ticks_per_second(),
        rustix::param::page_size(),
    )
    .ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("/proc/{pid}/stat cannot be understood"),
        )
    })
}

/// Fields 14 (utime), 15 (stime) and 24 (rss) of proc_pid_stat(5). The second field, the
/// name in parentheses, may itself hold spaces and parentheses.
fn parse(stat: &str, ticks: u64, page: usize) -> Option<Usage> {
    let after_name = &stat[stat.rfind(')')? + 1..];
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Usage {
        cpu_millis: (number(14)? + number(15)?) * 1000 / ticks.max(1),
        rss_bytes: number(24)? * u64::try_from(page).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_do_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 13 14 15 16 17 18 19 20 3 22";
        assert_eq!(
            parse(stat, 100, 4096),
            Some(Usage {
                cpu_millis: 2000,
                rss_bytes: 12288
            })
        );
        assert_eq!(parse("nonsense", 100, 4096), None);
    }

    #[test]
    fn this_process_uses_memory() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(of(own).unwrap().rss_bytes > 0);
        assert!(of(-1).is_err());
    }
}
