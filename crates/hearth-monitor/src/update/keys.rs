//! What keys do.
//!
//! ```text
//!  question open ─► y does it, all else does not
//!  filter typed  ─► it grows; Enter keeps it, Escape drops it
//!  page of text  ─► scrolls; Escape leaves
//!  VMs           ─► moves, sorts, asks
//! ```

use hearth_types::api::VmGlance;
use hearth_types::status::Phase;

use super::{Action, Effect, Key};
use crate::model::{Link, Model, Page, Question};
use crate::table::{Column, Order};

/// The longest filter: more does not fit on a line.
const FILTER: usize = 60;

impl Model {
    pub(super) fn key(&mut self, key: Key) -> Option<Effect> {
        if key == Key::Interrupt {
            return Some(Effect::Quit);
        }
        self.notice = None;
        if let Some(question) = self.question.take() {
            return self.answer(question, key);
        }
        if self.typing {
            self.type_filter(key);
            return None;
        }
        match key {
            Key::Char('q') => Some(Effect::Quit),
            Key::Char('?' | 'h') => self.turn_to(Page::Help),
            Key::Char('e') => self.turn_to(Page::Events),
            Key::Char('w') => self.turn_to(Page::Work),
            Key::Char('o') => {
                self.turn_to(Page::Orphans);
                Some(Effect::LookForOrphans)
            }
            Key::Char('R') => Some(Effect::Look),
            _ if self.page == Page::Vms => self.key_on_vms(key),
            _ => self.key_on_text(key),
        }
    }

    /// The same key again leads back.
    fn turn_to(&mut self, page: Page) -> Option<Effect> {
        self.page = if self.page == page { Page::Vms } else { page };
        self.scroll = 0;
        None
    }

    fn key_on_vms(&mut self, key: Key) -> Option<Effect> {
        let page = isize::try_from(self.rows).unwrap_or(1);
        match key {
            Key::Up | Key::Char('k') => self.choose_by(-1),
            Key::Down | Key::Char('j') => self.choose_by(1),
            Key::PageUp => self.choose_by(-page),
            Key::PageDown | Key::Char(' ') => self.choose_by(page),
            Key::Home | Key::Char('g') => self.choose_by(isize::MIN),
            Key::End | Key::Char('G') => self.choose_by(isize::MAX),
            Key::Enter if self.chosen_vm().is_some() => {
                return self.turn_to(Page::Detail);
            }
            Key::Char('/') => self.typing = true,
            Key::Escape if !self.filter.is_empty() => self.set_filter(String::new()),
            Key::Char('t') => self.sort_by(self.order.column.next()),
            Key::Char('T') => self.sort_by(self.order.column),
            Key::Char(digit @ '1'..='7') => {
                let at = usize::from(u8::try_from(digit).unwrap_or(b'1') - b'1');
                self.sort_by(Column::ALL[at]);
            }
            _ => return self.key_on_one(key),
        }
        None
    }

    fn key_on_text(&mut self, key: Key) -> Option<Effect> {
        // Events are read from the newest, at the bottom, upwards.
        let up = if self.page == Page::Events { 1 } else { -1 };
        let page = isize::from(i16::try_from(self.size.1).unwrap_or(24) / 2);
        match key {
            Key::Up | Key::Char('k') => self.scroll_by(up),
            Key::Down | Key::Char('j') => self.scroll_by(-up),
            Key::PageUp => self.scroll_by(up * page),
            Key::PageDown | Key::Char(' ') => self.scroll_by(-up * page),
            Key::Home | Key::Char('g') => self.scroll_by(up.saturating_mul(isize::MAX)),
            Key::End | Key::Char('G') => self.scroll_by((-up).saturating_mul(isize::MAX)),
            Key::Escape | Key::Enter | Key::Backspace => {
                self.page = Page::Vms;
                self.scroll = 0;
            }
            _ if self.page == Page::Detail => return self.key_on_one(key),
            _ => {}
        }
        None
    }

    /// Keys about the chosen VM.
    fn key_on_one(&mut self, key: Key) -> Option<Effect> {
        let Key::Char(letter @ ('l' | 'c' | 's' | 'r')) = key else {
            return None;
        };
        let Some(vm) = self.chosen_vm() else {
            self.say("No VM is chosen.".to_owned(), true);
            return None;
        };
        let (id, name) = (vm.id, vm.name.clone());
        if self.link != Link::Up {
            self.say(
                "hearthd does not answer: nothing was done.".to_owned(),
                true,
            );
            return None;
        }
        let (objection, action) = match letter {
            'l' => return Some(Effect::Logs { vm: id }),
            'c' => (runs_not(vm), None),
            's' if rests(vm) => (None, Some(Action::Start)),
            's' => (cannot_stop(vm), Some(Action::Stop)),
            _ => (runs_already(vm), Some(Action::Recover { force: false })),
        };
        match (objection, action) {
            (Some(why), _) => self.say(format!("{name} {why}."), true),
            (None, None) => return Some(Effect::Console { vm: id }),
            (None, Some(action)) => {
                let vm = id;
                self.question = Some(Question { action, vm, name });
            }
        }
        None
    }

    fn answer(&mut self, question: Question, key: Key) -> Option<Effect> {
        let action = match (question.action, key) {
            (action, Key::Char('y' | 'Y')) => action,
            (Action::Recover { .. }, Key::Char('f' | 'F')) => Action::Recover { force: true },
            _ => {
                self.say("Nothing was done.".to_owned(), false);
                return None;
            }
        };
        let Question { vm, name, .. } = question;
        Some(Effect::Act { action, vm, name })
    }

    fn type_filter(&mut self, key: Key) {
        let mut filter = std::mem::take(&mut self.filter);
        match key {
            Key::Char(c) if filter.chars().count() < FILTER && !c.is_control() => filter.push(c),
            Key::Backspace => drop(filter.pop()),
            Key::Clear => filter.clear(),
            Key::Escape => {
                filter.clear();
                self.typing = false;
            }
            Key::Enter => self.typing = false,
            _ => {}
        }
        self.set_filter(filter);
    }

    /// Shows only VMs with this in name, image, state, health or reason.
    pub fn set_filter(&mut self, filter: String) {
        self.filter = filter;
        self.arrange();
    }

    /// By another column, or by the same one the other way round.
    fn sort_by(&mut self, column: Column) {
        let reversed = self.order.column == column && !self.order.reversed;
        self.set_order(Order { column, reversed });
    }

    /// Sorts the table.
    pub fn set_order(&mut self, order: Order) {
        self.order = order;
        self.arrange();
    }
}

const fn runs(vm: &VmGlance) -> bool {
    matches!(vm.phase, Phase::Running | Phase::Paused | Phase::Stopping)
}

fn runs_not(vm: &VmGlance) -> Option<&'static str> {
    (!runs(vm)).then_some("does not run: it has no console now")
}

fn runs_already(vm: &VmGlance) -> Option<&'static str> {
    match vm.phase {
        Phase::Running | Phase::Paused => Some("runs: there is nothing to recover"),
        Phase::Removing => Some("is being removed"),
        _ => None,
    }
}

const fn rests(vm: &VmGlance) -> bool {
    matches!(vm.phase, Phase::Created | Phase::Exited)
}

/// What waits for its restart can be stopped, too: it then waits no more.
fn cannot_stop(vm: &VmGlance) -> Option<&'static str> {
    match vm.phase {
        Phase::Stopping => Some("is being stopped"),
        Phase::Removing => Some("is being removed"),
        _ => None,
    }
}
