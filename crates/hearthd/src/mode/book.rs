//! What was set by hand and what rules ask for, without any I/O.

use std::collections::BTreeMap;

use hearth_plan::mode::Stance;
use hearth_types::mode::{HandMode, Mode, ModeBy, ModeRule, ModeView, RuleMode, SetMode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A mode set by hand, as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Word {
    mode: Mode,
    reason: Option<String>,
    since: Timestamp,
}

impl Word {
    /// In place of a word that cannot be read.
    pub(super) fn caution(now: Timestamp) -> Self {
        Self {
            mode: Mode::Readonly,
            reason: Some("the mode that was set by hand cannot be read".to_owned()),
            since: now,
        }
    }
}

#[derive(Debug, Clone)]
struct Cause {
    reason: String,
    since: Timestamp,
    set_aside: bool,
}

/// The mode in force has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) from: Mode,
    pub(super) to: Mode,
    pub(super) by: ModeBy,
    pub(super) reason: Option<String>,
}

impl Change {
    pub(super) fn words(&self) -> String {
        let reason = match &self.reason {
            Some(reason) => format!(": {reason}"),
            None => String::new(),
        };
        format!("the mode is {} and was {}{reason}", self.to, self.from)
    }
}

/// Who asks for which mode.
#[derive(Debug, Default)]
pub struct Book {
    hand: Option<Word>,
    /// What was set by hand is not in the database yet.
    unstored: bool,
    rules: BTreeMap<ModeRule, Cause>,
    /// Since when the mode in force is in force.
    since: Option<Timestamp>,
}

/// The mode in force, who asks for it, and why.
struct InForce<'a> {
    mode: Mode,
    by: ModeBy,
    reason: Option<&'a str>,
    /// The rule that asks for it.
    rule: Option<ModeRule>,
}

impl Book {
    /// The strictest that is asked for; between equals, what was set by hand.
    fn in_force(&self) -> InForce<'_> {
        let rules = self.rules.iter().filter(|(_, cause)| !cause.set_aside);
        let strictest = rules.max_by_key(|(rule, _)| rule.mode());
        let by_hand = self.hand.as_ref().map_or(Mode::Normal, |word| word.mode);
        match (strictest, &self.hand) {
            (Some((rule, cause)), _) if rule.mode() > by_hand => InForce {
                mode: rule.mode(),
                by: ModeBy::Rule,
                reason: Some(&cause.reason),
                rule: Some(*rule),
            },
            (_, Some(word)) => InForce {
                mode: word.mode,
                by: ModeBy::Hand,
                reason: word.reason.as_deref(),
                rule: None,
            },
            _ => InForce {
                mode: Mode::Normal,
                by: ModeBy::Default,
                reason: None,
                rule: None,
            },
        }
    }

    /// The mode in force.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.in_force().mode
    }

    pub(super) fn stance(&self) -> Stance {
        let InForce {
            mode,
            by,
            reason,
            rule,
        } = self.in_force();
        let by_hand = || "set by hand".to_owned();
        Stance {
            mode,
            reason: (mode != Mode::Normal).then(|| reason.map_or_else(by_hand, str::to_owned)),
            // One that is outweighed by a word is looked at, too.
            by_rule: by == ModeBy::Rule || !self.rules.is_empty(),
            by_breaker: rule == Some(ModeRule::HostBreaker),
        }
    }

    pub(super) fn view(&self) -> ModeView {
        let InForce {
            mode, by, reason, ..
        } = self.in_force();
        let hand = self.hand.as_ref().map(|word| HandMode {
            mode: word.mode,
            reason: word.reason.clone(),
            since: word.since,
            stored: !self.unstored,
        });
        let rules = self.rules.iter().map(|(rule, cause)| RuleMode {
            rule: *rule,
            mode: rule.mode(),
            reason: cause.reason.clone(),
            since: cause.since,
            set_aside: cause.set_aside,
        });
        ModeView {
            mode,
            since: self.since,
            by,
            reason: reason.map(str::to_owned),
            hand,
            rules: rules.collect(),
        }
    }

    pub(super) fn has(&self, rule: ModeRule) -> bool {
        self.rules.contains_key(&rule)
    }

    pub(super) const fn unstored(&self) -> bool {
        self.unstored
    }

    /// What is to be stored: nothing for mode `normal`.
    pub(super) fn word(&self) -> Option<Word> {
        self.hand.clone()
    }

    /// This word was stored; a newer one may have been spoken meanwhile.
    pub(super) fn stored(&mut self, word: Option<&Word>) {
        if self.hand.as_ref() == word {
            self.unstored = false;
        }
    }

    pub(super) fn recall(&mut self, word: Word) -> Option<Change> {
        let since = word.since;
        self.change(since, |book| {
            book.hand = Some(word).filter(|word| word.mode != Mode::Normal);
        })
    }

    pub(super) fn by_hand(&mut self, set: SetMode, now: Timestamp) -> Option<Change> {
        self.change(now, |book| {
            for (rule, cause) in &mut book.rules {
                cause.set_aside = rule.yields();
            }
            book.unstored = true;
            book.hand = Some(Word {
                mode: set.mode,
                reason: set.reason,
                since: now,
            })
            .filter(|word| word.mode != Mode::Normal);
        })
    }

    pub(super) fn rule(
        &mut self,
        rule: ModeRule,
        cause: Option<String>,
        now: Timestamp,
    ) -> Option<Change> {
        self.change(now, |book| match (cause, book.rules.get_mut(&rule)) {
            (Some(reason), Some(known)) => known.reason = reason,
            (Some(reason), None) => {
                let cause = Cause {
                    reason,
                    since: now,
                    set_aside: false,
                };
                book.rules.insert(rule, cause);
            }
            (None, _) => drop(book.rules.remove(&rule)),
        })
    }

    /// Makes a change; `None` if the mode in force stays what it was.
    fn change(&mut self, now: Timestamp, change: impl FnOnce(&mut Self)) -> Option<Change> {
        let before = self.in_force();
        let (from, old) = (before.mode, before.reason.map(str::to_owned));
        change(self);
        let InForce {
            mode: to,
            by,
            reason,
            ..
        } = self.in_force();
        if from == to {
            return None;
        }
        // Why it was left is told by what is gone.
        let reason = match (reason, old) {
            (Some(reason), _) => Some(reason.to_owned()),
            (None, Some(old)) if by == ModeBy::Default => Some(format!("no more: {old}")),
            (None, _) => None,
        };
        self.since = Some(now);
        Some(Change {
            from,
            to,
            by,
            reason,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn set(book: &mut Book, mode: Mode, now: i64) -> Option<Mode> {
        let set = SetMode {
            mode,
            reason: Some("work".to_owned()),
        };
        book.by_hand(set, at(now)).map(|change| change.to)
    }

    fn rule(book: &mut Book, rule: ModeRule, cause: Option<&str>) -> Option<Mode> {
        book.rule(rule, cause.map(str::to_owned), at(9))
            .map(|change| change.to)
    }

    #[test]
    fn the_strictest_is_in_force() {
        let mut book = Book::default();
        assert_eq!(
            set(&mut book, Mode::Maintenance, 1),
            Some(Mode::Maintenance)
        );
        let full = ModeRule::DiskFull;
        assert_eq!(rule(&mut book, full, Some("full")), Some(Mode::Readonly));
        assert_eq!(rule(&mut book, full, Some("fuller")), None);
        assert_eq!(book.view().reason.as_deref(), Some("fuller"));
        assert_eq!(book.view().by, ModeBy::Rule);
        assert_eq!(rule(&mut book, full, None), Some(Mode::Maintenance));
        assert_eq!(book.view().by, ModeBy::Hand);
        assert_eq!(rule(&mut book, ModeRule::HostBreaker, Some("open")), None);
        assert_eq!(book.view().by, ModeBy::Hand);
        assert_eq!(rule(&mut book, ModeRule::HostBreaker, None), None);
        assert_eq!(set(&mut book, Mode::Normal, 3), Some(Mode::Normal));
        assert_eq!(book.view().hand, None);
    }

    #[test]
    fn a_word_sets_a_rule_aside_until_its_cause_is_gone() {
        let mut book = Book::default();
        let full = ModeRule::DiskFull;
        assert_eq!(rule(&mut book, full, Some("full")), Some(Mode::Readonly));
        assert_eq!(set(&mut book, Mode::Normal, 1), Some(Mode::Normal));
        assert!(book.view().rules[0].set_aside);
        assert_eq!(rule(&mut book, full, Some("full")), None);
        assert_eq!(rule(&mut book, full, None), None);
        assert_eq!(
            rule(&mut book, full, Some("full again")),
            Some(Mode::Readonly)
        );
    }

    #[test]
    fn nothing_sets_an_unwritable_database_aside() {
        let mut book = Book::default();
        let database = ModeRule::DatabaseUnwritable;
        assert_eq!(
            rule(&mut book, database, Some("gone")),
            Some(Mode::Readonly)
        );
        assert_eq!(set(&mut book, Mode::Normal, 1), None);
        assert_eq!(book.mode(), Mode::Readonly);
        assert!(book.unstored());
        book.stored(None);
        assert!(!book.unstored());
    }

    #[test]
    fn a_word_that_was_stored_is_not_the_one_spoken_since() {
        let mut book = Book::default();
        set(&mut book, Mode::Readonly, 1);
        let first = book.word();
        set(&mut book, Mode::Maintenance, 2);
        book.stored(first.as_ref());
        assert!(book.unstored());
        book.stored(book.word().as_ref());
        assert!(!book.unstored());
    }

    #[test]
    fn why_a_mode_was_left_is_said() {
        let mut book = Book::default();
        rule(&mut book, ModeRule::DiskFull, Some("full"));
        let left = book.rule(ModeRule::DiskFull, None, at(9)).unwrap();
        assert_eq!(
            left.words(),
            "the mode is normal and was readonly: no more: full"
        );
    }
}
