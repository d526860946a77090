//! What stands in a unit: names as in `org.freedesktop.systemd1(5)`, values with their
//! D-Bus types.

use zbus::wire::Variant;

/// One property of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    /// Its D-Bus name, such as `MemoryMax`.
    pub name: &'static str,
    /// Its value.
    pub value: Setting,
}

/// A value with the D-Bus type that systemd wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// `b`
    Flag(bool),
    /// `i`
    Signed(i32),
    /// `u`
    Word(u32),
    /// `t`
    Number(u64),
    /// `s`
    Text(String),
    /// `as`
    Texts(Vec<String>),
    /// `aay`: texts as bytes
    Fields(Vec<String>),
    /// `a(ss)`: such as device and access
    Pairs(Vec<(String, String)>),
    /// `a(st)`: such as path and limit
    Limits(Vec<(String, u64)>),
    /// `(bas)`: a list that is allowed (`true`) or forbidden (`false`)
    List(bool, Vec<String>),
    /// `a(sasb)`: a program, its arguments with the program's name first
    Command(String, Vec<String>),
}

impl Property {
    /// A property.
    #[must_use]
    pub fn new(name: &'static str, value: Setting) -> Self {
        Self { name, value }
    }

    /// A yes or no.
    #[must_use]
    pub fn flag(name: &'static str, value: bool) -> Self {
        Self::new(name, Setting::Flag(value))
    }

    /// A number.
    #[must_use]
    pub fn number(name: &'static str, value: u64) -> Self {
        Self::new(name, Setting::Number(value))
    }

    /// A word.
    #[must_use]
    pub fn text(name: &'static str, value: impl Into<String>) -> Self {
        Self::new(name, Setting::Text(value.into()))
    }

    /// A list of words.
    #[must_use]
    pub fn texts<T: Into<String>>(name: &'static str, values: impl IntoIterator<Item = T>) -> Self {
        Self::new(
            name,
            Setting::Texts(values.into_iter().map(Into::into).collect()),
        )
    }
}

impl Setting {
    pub(crate) fn to_variant(&self) -> Variant<'static> {
        match self {
            Self::Flag(value) => (*value).into(),
            Self::Signed(value) => (*value).into(),
            Self::Word(value) => (*value).into(),
            Self::Number(value) => (*value).into(),
            Self::Text(value) => value.clone().into(),
            Self::Texts(values) => values.clone().into(),
            Self::Fields(values) => values
                .iter()
                .map(|text| text.clone().into_bytes())
                .collect::<Vec<_>>()
                .into(),
            Self::Pairs(values) => values.clone().into(),
            Self::Limits(values) => values.clone().into(),
            Self::List(allow, values) => (*allow, values.clone()).into(),
            Self::Command(program, args) => vec![(program.clone(), args.clone(), false)].into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_types_that_systemd_wants() {
        let text = || "x".to_owned();
        for (setting, signature) in [
            (Setting::Flag(true), "b"),
            (Setting::Signed(-1), "i"),
            (Setting::Word(1), "u"),
            (Setting::Number(1), "t"),
            (Setting::Text(text()), "s"),
            (Setting::Texts(vec![text()]), "as"),
            (Setting::Fields(vec![text()]), "aay"),
            (Setting::Pairs(vec![(text(), text())]), "a(ss)"),
            (Setting::Limits(vec![(text(), 1)]), "a(st)"),
            (Setting::List(true, vec![text()]), "(bas)"),
            (Setting::Command(text(), vec![text()]), "a(sasb)"),
        ] {
            let variant = setting.to_variant();
            assert_eq!(
                variant.value_signature().to_string(),
                signature,
                "{setting:?}"
            );
        }
    }
}
