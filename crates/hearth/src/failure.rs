//! A failed command: what to print and how to exit.

use std::error::Error;
use std::fmt::Display;
use std::io;

use hearth_client::ClientError;
use hearth_types::problem::Problem;
use hearth_types::spec::FieldError;

use crate::exit_codes;

/// What ends a command early.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) code: u8,
    /// What failed, on which object; nothing is printed when absent (the reader of our
    /// output has gone, or all was said before).
    pub(crate) message: Option<String>,
    /// Why, outermost first.
    pub(crate) causes: Vec<String>,
    /// The fields that are wrong.
    pub(crate) fields: Vec<FieldError>,
    /// What to do next.
    pub(crate) hint: Option<String>,
}

/// What every command ends with: its exit code or its failure.
pub(crate) type Outcome = Result<u8, Failure>;

impl Failure {
    pub(crate) fn new(code: u8, message: impl Display) -> Self {
        Self {
            code,
            message: Some(message.to_string()),
            causes: Vec::new(),
            fields: Vec::new(),
            hint: None,
        }
    }

    /// Wrong input.
    pub(crate) fn usage(message: impl Display) -> Self {
        Self::new(exit_codes::USAGE, message)
    }

    /// A failure with the error that caused it.
    pub(crate) fn because(code: u8, message: impl Display, cause: &(dyn Error + 'static)) -> Self {
        Self {
            causes: chain(Some(cause)),
            ..Self::new(code, message)
        }
    }

    /// Wrong fields of a specification or file.
    pub(crate) fn fields(message: impl Display, fields: Vec<FieldError>) -> Self {
        Self {
            fields,
            ..Self::usage(message)
        }
    }

    /// Ends with this code without a word.
    pub(crate) const fn silent(code: u8) -> Self {
        Self {
            code,
            message: None,
            causes: Vec::new(),
            fields: Vec::new(),
            hint: None,
        }
    }

    /// Our output could not be written. A reader that has gone (`| head`) is no error.
    pub(crate) fn output(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::silent(exit_codes::OK)
        } else {
            Self::because(exit_codes::FAILURE, "Cannot write the output", error)
        }
    }

    pub(crate) fn hint(self, hint: impl Display) -> Self {
        Self {
            hint: Some(hint.to_string()),
            ..self
        }
    }

    pub(crate) fn with_code(self, code: u8) -> Self {
        // A reader that has gone stays no error.
        match self.message {
            Some(_) => Self { code, ..self },
            None => self,
        }
    }

    /// Prints it to stderr.
    pub(crate) fn print(&self) {
        let Some(message) = &self.message else { return };
        crate::output::error(message);
        for field in &self.fields {
            crate::output::stderr(&format!("  {field}"));
        }
        for cause in &self.causes {
            crate::output::stderr(&format!("  because: {cause}"));
        }
        if let Some(hint) = &self.hint {
            crate::output::hint(hint);
        }
    }
}

fn chain(mut next: Option<&(dyn Error + 'static)>) -> Vec<String> {
    let mut causes = Vec::new();
    while let Some(error) = next {
        let text = error.to_string();
        // Libraries like to repeat their cause's words.
        if !causes
            .last()
            .is_some_and(|last: &String| last.ends_with(&text))
        {
            causes.push(text);
        }
        next = error.source();
    }
    causes
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let code = exit_codes::of_problem(&problem);
        // With fields, the detail says the same once more.
        let message = if problem.errors.is_empty() {
            problem.detail
        } else {
            problem.title
        };
        Self {
            fields: problem.errors,
            hint: problem.hint,
            ..Self::new(code, message)
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let causes = chain(error.source());
        match error {
            ClientError::Problem(problem) => {
                let failure = Self::from(*problem);
                if failure.hint.is_none()
                    && failure.message.as_deref() == Some("A valid token is needed")
                {
                    return failure.hint("set HEARTH_TOKEN or HEARTH_TOKEN_FILE");
                }
                failure
            }
            ClientError::Unreachable { ref hint, .. } => {
                let hint = hint.clone();
                Self {
                    causes,
                    hint: Some(hint),
                    ..Self::new(exit_codes::UNREACHABLE, error)
                }
            }
            ClientError::Broken { .. } => Self {
                causes,
                hint: Some("hearthd may have been restarted; VMs go on without it".to_owned()),
                ..Self::new(exit_codes::UNREACHABLE, error)
            },
            other => Self {
                causes,
                ..Self::new(exit_codes::FAILURE, other)
            },
        }
    }
}
