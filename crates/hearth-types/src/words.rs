//! What the variants of an enum are called, once for the database, tables, metrics and JSON.

/// Gives an enum its words: `ALL` in this order, `as_str` and `Display`; with an error for a word
/// that is none of them `FromStr`, too. A variant without a word does not compile, so `ALL` has
/// them all.
macro_rules! words {
    ($name:ident { $($variant:ident => $word:literal),+ $(,)? }) => {
        impl $name {
            /// All of them.
            pub const ALL: [Self; [$($word),+].len()] = [$(Self::$variant),+];

            /// The word that the database, tables and JSON have for it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
    ($name:ident or $unknown:ident { $($variant:ident => $word:literal),+ $(,)? }) => {
        $crate::words::words!($name { $($variant => $word),+ });

        impl std::str::FromStr for $name {
            type Err = $unknown;

            fn from_str(text: &str) -> Result<Self, $unknown> {
                let mut all = Self::ALL.into_iter();
                let found = all.find(|word| word.as_str() == text);
                found.ok_or_else(|| $unknown(text.to_owned()))
            }
        }
    };
}

pub(crate) use words;
