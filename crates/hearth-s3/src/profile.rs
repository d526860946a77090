//! The shared files of AWS's tools: `~/.aws/credentials` and `~/.aws/config`.

/// What one profile says.
#[derive(Default, Clone, PartialEq, Eq)]
pub(crate) struct Profile {
    pub(crate) key_id: Option<String>,
    pub(crate) secret: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) endpoint: Option<String>,
}

impl Profile {
    /// The profile of this name in a file's text, if it is there. `[name]` and `[profile name]`
    /// are one: the two files differ in that. Indented lines belong to the key above and to no
    /// key that is read here.
    pub(crate) fn find(text: &str, name: &str) -> Option<Self> {
        let mut found: Option<Self> = None;
        let mut inside = false;
        for line in text.lines() {
            if line.trim_start().starts_with(['#', ';']) || line.starts_with([' ', '\t']) {
                continue;
            }
            let line = line.trim_end();
            if let Some(section) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                let section = section.trim();
                let section = section.strip_prefix("profile ").unwrap_or(section).trim();
                inside = section == name;
                if inside {
                    found.get_or_insert_default();
                }
            } else if let (Some(profile), true, Some((key, value))) =
                (&mut found, inside, line.split_once('='))
            {
                profile.set(key.trim(), value.trim());
            }
        }
        found
    }

    fn set(&mut self, key: &str, value: &str) {
        let place = match key.to_ascii_lowercase().as_str() {
            "aws_access_key_id" => &mut self.key_id,
            "aws_secret_access_key" => &mut self.secret,
            "aws_session_token" => &mut self.token,
            "region" => &mut self.region,
            "endpoint_url" => &mut self.endpoint,
            _ => return,
        };
        if !value.is_empty() {
            *place = Some(value.to_owned());
        }
    }

    /// This one, with what only the other says.
    pub(crate) fn or(self, other: Self) -> Self {
        // Credentials are a whole: never the id of one file with the secret of another.
        let (key_id, secret, token) = if self.key_id.is_some() || self.secret.is_some() {
            (self.key_id, self.secret, self.token)
        } else {
            (other.key_id, other.secret, other.token)
        };
        Self {
            key_id,
            secret,
            token,
            region: self.region.or(other.region),
            endpoint: self.endpoint.or(other.endpoint),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# a comment
[default]
aws_access_key_id = AKID
aws_secret_access_key=sec=ret
s3 =
    endpoint_url = nested

[profile other ]
region = eu-west-1
AWS_ACCESS_KEY_ID = OTHER
endpoint_url = http://127.0.0.1:1
; the end
";

    #[test]
    fn sections() {
        let default = Profile::find(TEXT, "default").unwrap();
        assert_eq!(default.key_id.as_deref(), Some("AKID"));
        assert_eq!(default.secret.as_deref(), Some("sec=ret"));
        assert_eq!(default.endpoint, None);
        let other = Profile::find(TEXT, "other").unwrap();
        assert_eq!(other.key_id.as_deref(), Some("OTHER"));
        assert_eq!(other.region.as_deref(), Some("eu-west-1"));
        assert!(Profile::find(TEXT, "none").is_none());
        let both = other.or(default);
        assert_eq!(both.key_id.as_deref(), Some("OTHER"));
        assert_eq!(both.secret, None, "the secret of another key");
    }
}
