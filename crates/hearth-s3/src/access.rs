//! Who asks which server: settings of the daemon, `AWS_*` variables, the shared files.
//!
//! The order is that of AWS's own tools: what is said here and now, the environment, the
//! profile. Only credentials differ in one thing: a profile that is asked for by name comes
//! before the environment. A machine's own metadata service is asked only on the operator's word.

use std::io;

use crate::S3Error;
use crate::profile::Profile;

/// What the daemon's configuration and the request say. Fields that are none are looked for in
/// the environment and the profile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// `https://host` or `http://host:port`; AWS's own when absent everywhere.
    pub endpoint: Option<String>,
    /// Such as `eu-west-1`; `us-east-1` when absent everywhere.
    pub region: Option<String>,
    /// Whether an endpoint is asked as `endpoint/bucket/key` rather than `bucket.endpoint/key`.
    pub path_style: bool,
    /// A profile of the shared credentials file.
    pub profile: Option<String>,
    /// The shared credentials file; AWS's usual one when absent.
    pub credentials_file: Option<String>,
    /// Whether the metadata service of the machine may be asked for credentials.
    pub instance: bool,
    /// A PEM file with authorities that are trusted beside the system's.
    pub ca: Option<String>,
}

/// Where variables and files come from.
pub trait Environment: Send + Sync {
    /// A variable, unless it is unset or empty.
    fn variable(&self, name: &str) -> Option<String>;
    /// A file's text; none if there is no such file.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    fn file(&self, path: &str) -> io::Result<Option<String>>;
}

/// The daemon's own environment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Host;

impl Environment for Host {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok().filter(|value| !value.is_empty())
    }

    fn file(&self, path: &str) -> io::Result<Option<String>> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Credentials, and where they are from.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    Keys {
        key_id: String,
        secret: String,
        token: Option<String>,
    },
    /// The metadata service gives them.
    Instance,
    /// Nothing is signed: for buckets that all may read.
    None,
}

/// All that is needed to ask.
pub(crate) struct Access {
    pub(crate) credentials: Credentials,
    /// Whose they are, in words.
    pub(crate) asker: String,
    pub(crate) region: String,
    /// None: AWS's own.
    pub(crate) endpoint: Option<String>,
}

impl Access {
    pub(crate) fn find(settings: &Settings, host: &dyn Environment) -> Result<Self, S3Error> {
        let asked = settings.profile.clone();
        let name = asked.clone().or_else(|| host.variable("AWS_PROFILE"));
        let profile = profile(settings, name.as_deref(), host)?;
        let environment = match asked {
            Some(_) => None,
            None => of_environment(host)?,
        };
        let (credentials, asker) = match environment {
            Some(keys) => (keys, "the keys of the daemon's environment".to_owned()),
            None => match of_profile(&profile, name.as_deref())? {
                Some(keys) => {
                    let name = name.as_deref().unwrap_or("default");
                    (keys, format!("profile {name:?}"))
                }
                None if settings.instance => {
                    (Credentials::Instance, "this machine's role".to_owned())
                }
                None => (
                    Credentials::None,
                    "anybody (no credentials are configured)".to_owned(),
                ),
            },
        };
        let region = settings.region.clone();
        let region = region
            .or_else(|| host.variable("AWS_REGION"))
            .or_else(|| host.variable("AWS_DEFAULT_REGION"))
            .or(profile.region);
        let endpoint = settings.endpoint.clone();
        let endpoint = endpoint
            .or_else(|| host.variable("AWS_ENDPOINT_URL_S3"))
            .or_else(|| host.variable("AWS_ENDPOINT_URL"))
            .or(profile.endpoint);
        Ok(Self {
            credentials,
            asker,
            region: region.unwrap_or_else(|| "us-east-1".to_owned()),
            endpoint,
        })
    }
}

fn of_environment(host: &dyn Environment) -> Result<Option<Credentials>, S3Error> {
    let key_id = host.variable("AWS_ACCESS_KEY_ID");
    let secret = host.variable("AWS_SECRET_ACCESS_KEY");
    let token = host.variable("AWS_SESSION_TOKEN");
    whole("the daemon's environment".to_owned(), key_id, secret, token)
}

fn of_profile(profile: &Profile, asked: Option<&str>) -> Result<Option<Credentials>, S3Error> {
    let what = format!("profile {:?}", asked.unwrap_or("default"));
    let Profile {
        key_id,
        secret,
        token,
        ..
    } = profile.clone();
    whole(what, key_id, secret, token)
}

/// Both keys or none.
fn whole(
    what: String,
    key_id: Option<String>,
    secret: Option<String>,
    token: Option<String>,
) -> Result<Option<Credentials>, S3Error> {
    // What cannot stand in a header would show itself only there.
    let printable = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
    if [&key_id, &secret, &token]
        .into_iter()
        .flatten()
        .any(|text| !printable(text))
    {
        let why = "has a key with characters that no key has";
        return Err(S3Error::Credentials { what, why });
    }
    match (key_id, secret) {
        (Some(key_id), Some(secret)) => Ok(Some(Credentials::Keys {
            key_id,
            secret,
            token,
        })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(S3Error::Credentials {
            what,
            why: "has a key id without a secret key",
        }),
        (None, Some(_)) => Err(S3Error::Credentials {
            what,
            why: "has a secret key without a key id",
        }),
    }
}

/// The profile of both files together. One that is named must be there.
fn profile(
    settings: &Settings,
    name: Option<&str>,
    host: &dyn Environment,
) -> Result<Profile, S3Error> {
    let home = |file: &str| {
        host.variable("HOME")
            .map(|home| format!("{home}/.aws/{file}"))
    };
    let credentials = settings.credentials_file.clone();
    let paths = [
        credentials
            .or_else(|| host.variable("AWS_SHARED_CREDENTIALS_FILE"))
            .or_else(|| home("credentials")),
        host.variable("AWS_CONFIG_FILE").or_else(|| home("config")),
    ];
    let mut found: Option<Profile> = None;
    for path in paths.into_iter().flatten() {
        let text = host.file(&path);
        let text = text.map_err(|source| S3Error::File { path, source })?;
        let here = text.and_then(|text| Profile::find(&text, name.unwrap_or("default")));
        found = match (found, here) {
            (Some(found), Some(here)) => Some(found.or(here)),
            (found, here) => found.or(here),
        };
    }
    match (found, name) {
        (Some(profile), _) => Ok(profile),
        (None, Some(name)) => Err(S3Error::Credentials {
            what: format!("profile {name:?}"),
            why: "is in no shared credentials file of the daemon (S3_CREDENTIALS_FILE, else ~/.aws/credentials of the daemon's user)",
        }),
        (None, None) => Ok(Profile::default()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[derive(Default)]
    struct Fake {
        variables: HashMap<&'static str, &'static str>,
        files: HashMap<&'static str, &'static str>,
    }

    impl Environment for Fake {
        fn variable(&self, name: &str) -> Option<String> {
            self.variables.get(name).map(|value| (*value).to_owned())
        }

        fn file(&self, path: &str) -> io::Result<Option<String>> {
            Ok(self.files.get(path).map(|text| (*text).to_owned()))
        }
    }

    const FILE: &str = "[default]\naws_access_key_id=D\naws_secret_access_key=d\n[two]\naws_access_key_id=T\naws_secret_access_key=t\naws_session_token=tt\nregion=eu-2\n";

    fn fake(variables: &[(&'static str, &'static str)]) -> Fake {
        let mut fake = Fake::default();
        fake.variables.insert("HOME", "/h");
        fake.variables.extend(variables.iter().copied());
        fake.files.insert("/h/.aws/credentials", FILE);
        fake
    }

    fn key(access: &Access) -> &str {
        match &access.credentials {
            Credentials::Keys { key_id, .. } => key_id,
            Credentials::Instance => "instance",
            Credentials::None => "none",
        }
    }

    #[test]
    fn order() {
        let keys = [("AWS_ACCESS_KEY_ID", "E"), ("AWS_SECRET_ACCESS_KEY", "e")];
        let named = |name: &str| Settings {
            profile: Some(name.to_owned()),
            ..Settings::default()
        };
        let plain = Settings::default();
        for (settings, host, expected) in [
            (plain.clone(), fake(&[]), "D"),
            (plain.clone(), fake(&keys), "E"),
            (plain.clone(), fake(&[("AWS_PROFILE", "two")]), "T"),
            (named("two"), fake(&keys), "T"),
            (plain.clone(), Fake::default(), "none"),
            (
                Settings {
                    instance: true,
                    ..plain.clone()
                },
                Fake::default(),
                "instance",
            ),
        ] {
            let access = Access::find(&settings, &host).unwrap();
            assert_eq!(key(&access), expected);
        }
        let access = Access::find(&named("two"), &fake(&[])).unwrap();
        assert_eq!(access.region, "eu-2");
        assert_eq!(access.asker, "profile \"two\"");
        let region = fake(&[("AWS_REGION", "x-1"), ("AWS_ENDPOINT_URL", "http://e")]);
        let access = Access::find(&named("two"), &region).unwrap();
        assert_eq!(access.region, "x-1");
        assert_eq!(access.endpoint.as_deref(), Some("http://e"));
    }

    #[test]
    fn halves_are_refused() {
        let settings = Settings::default();
        for variables in [
            [("AWS_ACCESS_KEY_ID", "E")],
            [("AWS_SECRET_ACCESS_KEY", "hush")],
            [("AWS_PROFILE", "nobody")],
        ] {
            let refused = Access::find(&settings, &fake(&variables));
            let error = refused.err().unwrap().to_string();
            assert!(!error.contains("hush"), "{error}");
        }
        let odd = [
            ("AWS_ACCESS_KEY_ID", "E"),
            ("AWS_SECRET_ACCESS_KEY", "hu\nsh"),
        ];
        let error = Access::find(&settings, &fake(&odd)).err().unwrap();
        assert!(!error.to_string().contains("hu"), "{error}");
    }
}
