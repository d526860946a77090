//! Reads the form of systemd's `EnvironmentFile=` (systemd.exec(5)).
//!
//! ```text
//! # a comment; so is a line that begins with ';'
//! KEY=plain text, spaces at both ends dropped, \x is x, a backslash at the end goes on
//! KEY='as it stands'
//! KEY="\" \\ \` and \$ are escaped, other backslashes stay"
//! KEY=parts' are 'joined
//! ```

/// One assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Assignment {
    /// The line it begins on, from 1.
    pub(crate) line: usize,
    pub(crate) key: String,
    pub(crate) value: String,
}

/// A line that is no assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    pub(crate) line: usize,
    pub(crate) message: &'static str,
}

/// Reads every line; errors do not hide what comes after them.
pub(crate) fn parse(text: &str) -> Vec<Result<Assignment, SyntaxError>> {
    let mut reader = Reader {
        rest: text.chars().collect::<Vec<_>>().into_iter().peekable(),
        line: 1,
    };
    let mut found = Vec::new();
    while let Some(c) = reader.skip_space() {
        match c {
            '\n' => drop(reader.next()),
            '#' | ';' => reader.skip_line(),
            _ => found.push(reader.assignment()),
        }
    }
    found
}

struct Reader {
    rest: std::iter::Peekable<std::vec::IntoIter<char>>,
    line: usize,
}

impl Reader {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.next();
        if c == Some('\n') {
            self.line += 1;
        }
        c
    }

    /// Skips spaces within the line; answers what comes then.
    fn skip_space(&mut self) -> Option<char> {
        while self
            .rest
            .next_if(|c| matches!(c, ' ' | '\t' | '\r'))
            .is_some()
        {}
        self.rest.peek().copied()
    }

    /// Up to the end of the line, which stays.
    fn skip_line(&mut self) {
        while self.rest.next_if(|c| *c != '\n').is_some() {}
    }

    fn assignment(&mut self) -> Result<Assignment, SyntaxError> {
        let line = self.line;
        let mut key = String::new();
        while let Some(c) = self.rest.next_if(|c| !matches!(c, '=' | '\n')) {
            key.push(c);
        }
        let key = key.trim_end().to_owned();
        let fail = |message| Err(SyntaxError { line, message });
        if self.rest.next_if_eq(&'=').is_none() {
            return fail("there is no '=': expected KEY=value");
        }
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if key.is_empty() || !key.chars().all(word) {
            self.skip_line();
            return fail("a key is letters, digits and '_', with nothing before it");
        }
        match self.value() {
            Ok(value) => Ok(Assignment { line, key, value }),
            Err(message) => fail(message),
        }
    }

    /// The value up to the end of its line.
    fn value(&mut self) -> Result<String, &'static str> {
        let mut value = String::new();
        // Where the value ends if only spaces follow: spaces are kept in the middle alone.
        let mut end = 0;
        self.skip_space();
        while let Some(c) = self.rest.next_if(|c| *c != '\n') {
            match c {
                '\'' => self.quoted(c, &mut value)?,
                '"' => self.quoted(c, &mut value)?,
                '\\' => match self.next() {
                    None | Some('\n') => continue,
                    Some(escaped) => value.push(escaped),
                },
                _ => {
                    value.push(c);
                    if c.is_whitespace() {
                        continue;
                    }
                }
            }
            end = value.len();
        }
        value.truncate(end);
        Ok(value)
    }

    fn quoted(&mut self, quote: char, value: &mut String) -> Result<(), &'static str> {
        loop {
            match self.next() {
                None => return Err("a quotation mark is not closed"),
                Some(c) if c == quote => return Ok(()),
                Some('\\') if quote == '"' => match self.next() {
                    None => return Err("a quotation mark is not closed"),
                    Some('\n') => {}
                    Some(c @ ('"' | '\\' | '`' | '$')) => value.push(c),
                    Some(c) => value.extend(['\\', c]),
                },
                Some(c) => value.push(c),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> String {
        let found = parse(text);
        assert_eq!(found.len(), 1, "{found:?}");
        found.into_iter().next().unwrap().unwrap().value
    }

    #[test]
    fn values_are_read_as_systemd_reads_them() {
        for (text, value) in [
            ("A=b", "b"),
            ("A=", ""),
            ("A=  b c  \n", "b c"),
            ("A=b # not a comment", "b # not a comment"),
            ("A='b  '", "b  "),
            ("A=\"b  \"  ", "b  "),
            (r#"A="a\"b\\c\$d\n""#, r#"a"b\c$d\n"#),
            (r"A='a\'", r"a\"),
            (r"A=a\ b\\", r"a b\"),
            ("A=one\\\ntwo", "onetwo"),
            ("A='one\ntwo'", "one\ntwo"),
            ("A=it's one'", "its one"),
            ("A=\"x\"'y'z", "xyz"),
            ("  A = b", "b"),
            ("A=b\r\n", "b"),
            ("A=k=v", "k=v"),
        ] {
            assert_eq!(one(text), value, "{text:?}");
        }
    }

    #[test]
    fn lines_are_counted() {
        let text = "# one\n; two\n\nA='x\ny'\nB=2\nnonsense\n=3\nexport C=4\nD='open\n";
        let found: Vec<_> = parse(text)
            .into_iter()
            .map(|line| match line {
                Ok(set) => format!("{}:{}={}", set.line, set.key, set.value),
                Err(error) => format!("{}:{}", error.line, error.message),
            })
            .collect();
        assert_eq!(
            found,
            [
                "4:A=x\ny",
                "6:B=2",
                "7:there is no '=': expected KEY=value",
                "8:a key is letters, digits and '_', with nothing before it",
                "9:a key is letters, digits and '_', with nothing before it",
                "10:a quotation mark is not closed",
            ]
        );
    }
}
