//! The one way to run another program: found in a fixed list of folders, cleared
//! environment, a deadline, and an error that holds what the program said.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Where programs are looked for. Not `$PATH`: a daemon that runs as root does not let its
/// environment choose what it runs.
const FOLDERS: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// Output kept of a program that says too much, in bytes.
const OUTPUT_SHOWN: usize = 2000;

/// A program that could not be run or did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The program is not installed.
    #[error("{program} is not installed (looked in {FOLDERS:?})")]
    Missing {
        /// Its name.
        program: String,
    },
    /// The program could not be started or its pipes failed.
    #[error("cannot run {command}")]
    Run {
        /// The program and its arguments.
        command: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The deadline passed; the program was killed.
    #[error("{command} did not end within {} s and was killed", deadline.as_secs_f32())]
    Deadline {
        /// The program and its arguments.
        command: String,
        /// The deadline.
        deadline: Duration,
    },
    /// The program ended with a failure.
    #[error("{command} failed ({status}): {output}")]
    Failed {
        /// The program and its arguments.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it said, shortened.
        output: String,
    },
}

/// Finds a program in the fixed list of folders.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    FOLDERS
        .iter()
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.is_file())
}

/// Runs a program with `input` on its standard input and returns its standard output.
///
/// # Errors
/// When the program is missing, cannot be started, overruns the deadline or fails.
pub async fn run(
    program: &str,
    args: &[&str],
    input: &[u8],
    deadline: Duration,
) -> Result<Vec<u8>, CommandError> {
    let path = find(program).ok_or_else(|| CommandError::Missing {
        program: program.to_owned(),
    })?;
    let command = std::iter::once(program)
        .chain(args.iter().copied())
        .collect::<Vec<_>>()
        .join(" ");
    let failed = |source| CommandError::Run {
        command: command.clone(),
        source,
    };
    let mut child = Command::new(path)
        .args(args)
        .env_clear()
        .env("PATH", FOLDERS.join(":"))
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let stdin = child.stdin.take();
    let talk = async {
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A program that ends before it has read everything is judged by its status.
                drop(stdin.write_all(input).await);
            }
        };
        let ((), output) = tokio::join!(feed, child.wait_with_output());
        output
    };
    let output = tokio::time::timeout(deadline, talk)
        .await
        .map_err(|_| CommandError::Deadline {
            command: command.clone(),
            deadline,
        })?
        .map_err(failed)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let mut said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if said.is_empty() {
        said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    }
    if let Some((end, _)) = said.char_indices().nth(OUTPUT_SHOWN) {
        said.truncate(end);
    }
    Err(CommandError::Failed {
        command,
        status: output.status,
        output: said,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn output_input_and_failures() {
        assert_eq!(
            run("cat", &[], b"hello", 10 * SECOND).await.unwrap(),
            b"hello"
        );
        assert!(matches!(
            run("no-such-program", &[], b"", SECOND).await,
            Err(CommandError::Missing { .. })
        ));
        let error = run("ls", &["/no/such/file"], b"", 10 * SECOND)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("/no/such/file"), "{error}");
        assert!(matches!(
            run("sleep", &["100"], b"", Duration::from_millis(50)).await,
            Err(CommandError::Deadline { .. })
        ));
    }
}
