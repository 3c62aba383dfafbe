//! Who owns a queue in a group: the rules of grants, commits, releases and resets of one (group, queue). Pure: the time
//! and what the log holds come in, what is to be stored and told comes out. The model in `tests/grant_model.rs` explores
//! this very code.
//!
//! **Invariants**: while a member's lease lasts nobody else is granted the queue; epochs never go back, nor when the record
//! was deleted meanwhile ([`epoch_floor`]); a committed
//! offset never goes back but by a reset, never passes the high watermark, and moves only under the epoch in force
//! (or without one, while no grant is live).
//!
//! A decision takes effect in the value that it was asked of: the caller decides on a copy and keeps it only once the log
//! has taken the record. Times are those of the lease clock ([`super::LeaseClock`]), which stands still while the
//! broker does.

use equeue_net::Code;
use equeue_net::api::Tries;
use equeue_record::Offset;
use equeue_storage::log::QueueBounds;

use super::Progress;

/// What the rules need to know besides.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How long a grant lasts without a heartbeat.
    pub lease_ms: u64,
    /// How long the newest generation seen refuses older ones, and how long a wish is remembered.
    pub wish_ms: u64,
    /// Off only in a test that shows what the check of epochs is for.
    pub check_epochs: bool,
}

/// A generation that somebody told, for a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Told {
    generation: u64,
    until_ms: u64,
}

impl Told {
    fn at(self, now_ms: u64) -> u64 {
        if now_ms < self.until_ms { self.generation } else { 0 }
    }

    fn hear(&mut self, generation: u64, now_ms: u64, rules: Rules) {
        if generation >= self.at(now_ms) {
            *self = Self { generation, until_ms: now_ms + rules.wish_ms };
        }
    }
}

/// Epochs of records that were deleted before the broker was started are not above this: grants are fewer than seconds,
/// counted from 2020. Half of all epochs are left, however far ahead the clock is.
pub fn epoch_floor(utc_ms: i64) -> u32 {
    let passed_s = utc_ms.saturating_sub(EPOCHS_FROM_MS) / 1_000;
    u32::try_from(passed_s.max(0)).unwrap_or(u32::MAX).min(EPOCH_FLOOR_MAX)
}

/// 2020-01-01, ms UTC.
const EPOCHS_FROM_MS: i64 = 1_577_836_800_000;
const EPOCH_FLOOR_MAX: u32 = u32::MAX / 2;

/// The grant of one queue in one group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Grant {
    record: Progress,
    /// New epochs are above this one too.
    floor: u32,
    /// The lease of the recorded member ends here.
    until_ms: u64,
    /// Newest generation in which the recorded member wants it.
    generation: u64,
    /// Newest generation that anybody told.
    newest: Told,
    /// Newest generation of somebody else who waits for it.
    wish: Told,
}

/// What asking for a queue comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// It is the member's under a new epoch, once this is durable.
    Store(Progress),
    /// It is the member's already, with the epoch of the record.
    Again,
    /// Somebody else has it.
    Held,
    /// Somebody knows a newer generation.
    Stale,
    /// The epochs are used up (never: one a second for 68 years).
    UsedUp,
}

/// What a heartbeat for a queue comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// The lease begins anew.
    Kept,
    /// The same, and somebody of a newer generation waits: release it soon.
    Release,
    /// The lease begins anew under another epoch: go on here.
    Reset {
        /// The epoch from now on.
        grant_epoch: u32,
        /// Where to go on.
        offset: Offset,
    },
    /// It is not the member's.
    Lost,
}

/// Whether something done under an epoch counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochCheck {
    /// It does.
    Current,
    /// It does not, but the member keeps the queue: the record has epoch and offset to go on with.
    Reset,
    /// It does not.
    Stale,
}

impl EpochCheck {
    /// What is told of it.
    pub fn code(self) -> Code {
        match self {
            Self::Current => Code::Ok,
            Self::Reset => Code::OffsetReset,
            Self::Stale => Code::StaleEpoch,
        }
    }
}

/// What a commit, release or reset comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitDecision {
    /// To be stored; OK once it is durable.
    Store(Progress),
    /// OK; what is there already says as much or more.
    Keep,
    /// Not allowed.
    Refuse(Code),
}

impl Grant {
    /// After a start of the broker: a recorded member has one whole lease.
    pub fn restored(record: Progress, now_ms: u64, rules: Rules) -> Self {
        Self { record, until_ms: now_ms + rules.lease_ms, ..Self::default() }
    }

    /// With new epochs above this one.
    #[must_use]
    pub fn above(self, floor: u32) -> Self {
        Self { floor, ..self }
    }

    fn next_epoch(&self) -> Option<u32> {
        self.record.grant_epoch.max(self.floor).checked_add(1)
    }

    /// What is stored, or on its way to be.
    pub fn record(&self) -> Progress {
        self.record
    }

    /// A member has the queue and its lease lasts.
    pub fn is_live(&self, now_ms: u64) -> bool {
        self.record.member != 0 && now_ms < self.until_ms
    }

    /// What is left of the lease.
    pub fn lease_left_ms(&self, now_ms: u64) -> u64 {
        if self.record.member == 0 { 0 } else { self.until_ms.saturating_sub(now_ms) }
    }

    /// A member wants the queue.
    pub fn ask(&mut self, member: u128, generation: u64, now_ms: u64, rules: Rules) -> Ask {
        if member == 0 || generation < self.newest.at(now_ms) {
            return Ask::Stale;
        }
        self.newest.hear(generation, now_ms, rules);
        if self.record.member == member {
            self.renew(generation, now_ms, rules);
            return Ask::Again;
        }
        if self.is_live(now_ms) {
            self.wish.hear(generation, now_ms, rules);
            return Ask::Held;
        }
        let Some(grant_epoch) = self.next_epoch() else { return Ask::UsedUp };
        self.record = Progress { grant_epoch, member, ..self.record };
        self.generation = 0;
        self.wish = Told::default();
        self.renew(generation, now_ms, rules);
        Ask::Store(self.record)
    }

    fn renew(&mut self, generation: u64, now_ms: u64, rules: Rules) {
        self.until_ms = self.until_ms.max(now_ms + rules.lease_ms);
        self.generation = self.generation.max(generation);
    }

    /// A member says that it has the queue, and that it knows a generation.
    pub fn beat(
        &mut self,
        member: u128,
        grant_epoch: u32,
        generation: u64,
        now_ms: u64,
        rules: Rules,
    ) -> Beat {
        match self.check(member, grant_epoch, rules) {
            EpochCheck::Stale => return Beat::Lost,
            EpochCheck::Reset | EpochCheck::Current => self.renew(generation, now_ms, rules),
        }
        self.newest.hear(generation, now_ms, rules);
        match self.record.committed {
            Some(offset) if grant_epoch != self.record.grant_epoch => {
                Beat::Reset { grant_epoch: self.record.grant_epoch, offset }
            }
            _ if self.wish.at(now_ms) > self.generation => Beat::Release,
            _ => Beat::Kept,
        }
    }

    /// Whether what a member does under an epoch counts. A lease that has ended counts until somebody else is granted
    /// the queue.
    pub fn check(&self, member: u128, grant_epoch: u32, rules: Rules) -> EpochCheck {
        let owns = member != 0 && self.record.member == member;
        if !rules.check_epochs || (owns && self.record.grant_epoch == grant_epoch) {
            return EpochCheck::Current;
        }
        let older = owns && grant_epoch < self.record.grant_epoch;
        if older && self.record.committed.is_some() { EpochCheck::Reset } else { EpochCheck::Stale }
    }

    /// Whether a member, or a tool without an epoch, may change what the group has done.
    ///
    /// # Errors
    /// What is told instead.
    pub fn permit(&self, (member, grant_epoch): (u128, u32), now_ms: u64, rules: Rules) -> Result<(), Code> {
        if grant_epoch == 0 {
            return if self.is_live(now_ms) { Err(Code::QueueHeld) } else { Ok(()) };
        }
        match self.check(member, grant_epoch, rules) {
            EpochCheck::Current => Ok(()),
            refused => Err(refused.code()),
        }
    }

    /// A member, or a tool without an epoch, has come so far.
    pub fn commit(
        &mut self,
        by: (u128, u32),
        (offset, tries): (Offset, Tries),
        bounds: QueueBounds,
        now_ms: u64,
        rules: Rules,
    ) -> CommitDecision {
        if let Err(code) = self.permit(by, now_ms, rules) {
            return CommitDecision::Refuse(code);
        }
        if offset > bounds.durable_end {
            return CommitDecision::Refuse(Code::OffsetOutOfRange);
        }
        if by.1 != 0 && !self.is_live(now_ms) {
            self.renew(0, now_ms, rules);
        }
        if self.advance(offset, tries) { CommitDecision::Store(self.record) } else { CommitDecision::Keep }
    }

    /// Goes on to `offset`, or notes that the message there failed more often; whether that was new.
    fn advance(&mut self, offset: Offset, tries: Tries) -> bool {
        let new = match self.record.committed {
            Some(committed) if offset == committed => tries.count > self.record.tries.count,
            committed => committed.is_none_or(|committed| offset > committed),
        };
        if new {
            self.record.committed = Some(offset);
            self.record.tries = tries;
        }
        new
    }

    /// A member gives the queue up, after a last commit.
    pub fn release(
        &mut self,
        by: (u128, u32),
        commit: Option<(Offset, Tries)>,
        bounds: QueueBounds,
        rules: Rules,
    ) -> CommitDecision {
        let (member, grant_epoch) = by;
        let done = |(offset, _)| self.record.committed.is_some_and(|known| offset <= known);
        if self.record.member == 0 && self.record.grant_epoch == grant_epoch && commit.is_none_or(done) {
            return CommitDecision::Keep; // asked again because the answer was lost
        }
        let check = self.check(member, grant_epoch, rules);
        if check != EpochCheck::Current {
            return CommitDecision::Refuse(check.code());
        }
        if commit.is_some_and(|(offset, _)| offset > bounds.durable_end) {
            return CommitDecision::Refuse(Code::OffsetOutOfRange);
        }
        if let Some((offset, tries)) = commit {
            self.advance(offset, tries);
        }
        self.record.member = 0;
        CommitDecision::Store(self.record)
    }

    /// A member leaves: whatever it has is free.
    pub fn leave(&mut self, member: u128) -> Option<Progress> {
        if self.record.member != member || member == 0 {
            return None;
        }
        self.record.member = 0;
        Some(self.record)
    }

    /// An operator sets the offset. Whoever has the queue keeps it, under a new epoch.
    pub fn reset(&mut self, offset: Offset, bounds: QueueBounds) -> CommitDecision {
        if offset < bounds.start || offset > bounds.durable_end {
            return CommitDecision::Refuse(Code::OffsetOutOfRange);
        }
        let Some(grant_epoch) = self.next_epoch() else {
            return CommitDecision::Refuse(Code::Internal);
        };
        let tries = Tries::default();
        self.record = Progress { committed: Some(offset), grant_epoch, tries, ..self.record };
        CommitDecision::Store(self.record)
    }

    /// Marks when the record is stored.
    pub fn stamp(&mut self, stored_ms: i64) -> Progress {
        self.record.stored_ms = stored_ms;
        self.record
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { lease_ms: 5_000, wish_ms: 10_000, check_epochs: true };
    const BOUNDS: QueueBounds = QueueBounds { start: Offset(10), durable_end: Offset(100), end: Offset(120) };
    const A: u128 = 1;
    const B: u128 = 2;

    fn at(offset: u64) -> (Offset, Tries) {
        (Offset(offset), Tries::default())
    }

    fn granted(grant: &mut Grant, member: u128, generation: u64, now_ms: u64) -> u32 {
        match grant.ask(member, generation, now_ms, RULES) {
            Ask::Store(record) => {
                assert_eq!((record, record.member), (grant.record(), member));
                record.grant_epoch
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_queue_is_held_until_its_lease_ends() {
        let mut grant = Grant::default();
        assert_eq!(granted(&mut grant, A, 1, 0), 1);
        assert_eq!(grant.ask(B, 1, 4_999, RULES), Ask::Held);
        assert_eq!(grant.beat(A, 1, 1, 4_999, RULES), Beat::Kept);
        assert_eq!(grant.ask(B, 1, 9_998, RULES), Ask::Held);
        assert_eq!(granted(&mut grant, B, 1, 9_999), 2);
        assert_eq!(grant.beat(A, 1, 1, 9_999, RULES), Beat::Lost);
        assert_eq!(grant.commit((A, 1), at(50), BOUNDS, 9_999, RULES), refuse(Code::StaleEpoch));
    }

    fn refuse(code: Code) -> CommitDecision {
        CommitDecision::Refuse(code)
    }

    #[test]
    fn the_holder_asks_again_and_keeps_its_epoch() {
        let mut grant = Grant::default();
        granted(&mut grant, A, 1, 0);
        assert_eq!(grant.ask(A, 2, 1_000, RULES), Ask::Again);
        assert_eq!(grant.record().grant_epoch, 1);
        // Also when its lease has ended and nobody else came.
        assert_eq!(grant.ask(A, 2, 60_000, RULES), Ask::Again);
        assert!(grant.is_live(64_999) && !grant.is_live(65_000));
    }

    #[test]
    fn a_newer_generation_makes_the_holder_release_and_an_older_one_is_refused() {
        let mut grant = Grant::default();
        granted(&mut grant, A, 4, 0);
        assert_eq!(grant.ask(B, 4, 100, RULES), Ask::Held);
        assert_eq!(grant.beat(A, 1, 4, 200, RULES), Beat::Kept, "the same generation takes nothing away");
        assert_eq!(grant.ask(B, 5, 300, RULES), Ask::Held);
        assert_eq!(grant.beat(A, 1, 4, 400, RULES), Beat::Release);
        assert_eq!(grant.ask(A, 4, 500, RULES), Ask::Stale);
        let stored = grant.release((A, 1), Some(at(50)), BOUNDS, RULES);
        assert!(matches!(stored, CommitDecision::Store(record) if record.member == 0));
        assert_eq!(grant.ask(A, 4, 600, RULES), Ask::Stale);
        assert_eq!(granted(&mut grant, B, 5, 700), 2);
        assert_eq!(grant.record().committed, Some(Offset(50)));
        // A generation that nobody tells any more is forgotten: a new coordinator may count from less.
        assert_eq!(granted(&mut grant, A, 1, 20_000), 3);
    }

    #[test]
    fn a_wish_that_is_not_repeated_is_forgotten() {
        let mut grant = Grant::default();
        granted(&mut grant, A, 4, 0);
        assert_eq!(grant.ask(B, 5, 100, RULES), Ask::Held);
        for now_ms in (1_000..10_100).step_by(1_000) {
            assert_eq!(grant.beat(A, 1, 4, now_ms, RULES), Beat::Release);
        }
        assert_eq!(grant.beat(A, 1, 4, 10_100, RULES), Beat::Kept);
    }

    #[test]
    fn commits_are_monotonic_and_bounded() {
        let mut grant = Grant::default();
        let mut commit = |offset| grant.commit((0, 0), at(offset), BOUNDS, 0, RULES);
        let stored = |committed| {
            CommitDecision::Store(Progress { committed: Some(Offset(committed)), ..Progress::default() })
        };
        assert_eq!(commit(0), stored(0));
        assert_eq!(commit(50), stored(50));
        assert_eq!(commit(50), CommitDecision::Keep);
        assert_eq!(commit(49), CommitDecision::Keep);
        assert_eq!(commit(101), refuse(Code::OffsetOutOfRange));
        assert_eq!(commit(100), stored(100));
    }

    #[test]
    fn attempts_are_kept_with_the_offset_they_are_of() {
        let mut grant = Grant::default();
        let tries = |count| Tries { count, since_ms: 5 };
        granted(&mut grant, A, 1, 0);
        let mut commit =
            |offset, count| grant.commit((A, 1), (Offset(offset), tries(count)), BOUNDS, 1, RULES);
        assert!(matches!(commit(20, 0), CommitDecision::Store(_)));
        assert!(matches!(commit(20, 2), CommitDecision::Store(record) if record.tries == tries(2)));
        for (offset, count) in [(20, 2), (20, 1), (20, 0), (19, 9)] {
            assert_eq!(commit(offset, count), CommitDecision::Keep, "{offset} {count}");
        }
        // Whoever comes next goes on counting.
        let last = grant.release((A, 1), Some((Offset(20), tries(3))), BOUNDS, RULES);
        assert!(matches!(last, CommitDecision::Store(record) if record.tries == tries(3)));
        granted(&mut grant, B, 1, 1);
        assert_eq!(grant.record().tries, tries(3));
        // They are of that message alone.
        grant.commit((B, 2), at(21), BOUNDS, 1, RULES);
        assert_eq!(grant.record().tries, Tries::default());
        grant.commit((B, 2), (Offset(21), tries(1)), BOUNDS, 1, RULES);
        grant.reset(Offset(21), BOUNDS);
        assert_eq!(grant.record().tries, Tries::default());
    }

    #[test]
    fn a_commit_needs_the_epoch_in_force() {
        let mut grant = Grant::default();
        granted(&mut grant, A, 1, 0);
        let mut commit = |by, now_ms| grant.commit(by, at(60), BOUNDS, now_ms, RULES);
        assert_eq!(commit((A, 2), 10), refuse(Code::StaleEpoch));
        assert_eq!(commit((B, 1), 10), refuse(Code::StaleEpoch), "another member's grant");
        assert_eq!(commit((B, 0), 10), refuse(Code::QueueHeld), "a tool while a grant is live");
        assert!(matches!(commit((A, 1), 10), CommitDecision::Store(_)));
        // The lease has ended and nobody else came: accepted, and renewed.
        assert_eq!(commit((A, 1), 6_000), CommitDecision::Keep);
        assert_eq!(commit((B, 0), 6_001), refuse(Code::QueueHeld));
        assert!(matches!(grant.commit((B, 0), at(70), BOUNDS, 12_000, RULES), CommitDecision::Store(_)));
        // Given up: the epoch counts no more, even though nobody else was granted the queue.
        grant.release((A, 1), None, BOUNDS, RULES);
        assert_eq!(grant.commit((A, 1), at(80), BOUNDS, 12_001, RULES), refuse(Code::StaleEpoch));
    }

    #[test]
    fn a_reset_keeps_the_grant_under_a_new_epoch() {
        let mut grant = Grant::default();
        granted(&mut grant, A, 1, 0);
        grant.commit((A, 1), at(60), BOUNDS, 0, RULES);
        assert_eq!(grant.reset(Offset(9), BOUNDS), refuse(Code::OffsetOutOfRange));
        assert_eq!(grant.reset(Offset(101), BOUNDS), refuse(Code::OffsetOutOfRange));
        let CommitDecision::Store(record) = grant.reset(Offset(20), BOUNDS) else { panic!() };
        assert_eq!((record.committed, record.grant_epoch, record.member), (Some(Offset(20)), 2, A));
        assert_eq!(grant.check(A, 1, RULES), EpochCheck::Reset);
        assert_eq!(grant.check(B, 1, RULES), EpochCheck::Stale);
        assert_eq!(grant.commit((A, 1), at(70), BOUNDS, 1, RULES), refuse(Code::OffsetReset));
        assert_eq!(grant.beat(A, 1, 1, 1, RULES), Beat::Reset { grant_epoch: 2, offset: Offset(20) });
        assert_eq!(grant.beat(A, 2, 1, 1, RULES), Beat::Kept);
        assert!(matches!(grant.commit((A, 2), at(30), BOUNDS, 1, RULES), CommitDecision::Store(_)));
    }

    #[test]
    fn nobody_owns_nothing() {
        let mut grant = Grant::default();
        granted(&mut grant, A, 1, 0);
        grant.release((A, 1), None, BOUNDS, RULES);
        assert_eq!(grant.ask(0, 1, 1, RULES), Ask::Stale);
        assert_eq!(grant.check(0, 1, RULES), EpochCheck::Stale);
        assert_eq!(grant.beat(0, 1, 1, 1, RULES), Beat::Lost);
    }

    #[test]
    fn a_release_asked_again_is_ok_and_leaving_frees() {
        let mut grant = Grant::default();
        granted(&mut grant, A, 1, 0);
        assert!(matches!(grant.release((A, 1), Some(at(30)), BOUNDS, RULES), CommitDecision::Store(_)));
        assert_eq!(grant.release((A, 1), Some(at(30)), BOUNDS, RULES), CommitDecision::Keep);
        assert_eq!(grant.release((A, 1), Some(at(31)), BOUNDS, RULES), refuse(Code::StaleEpoch));
        granted(&mut grant, B, 1, 1);
        assert_eq!(grant.leave(A), None);
        assert_eq!(grant.leave(B).map(|record| record.member), Some(0));
        assert_eq!(grant.leave(0), None);
        assert!(!grant.is_live(2));
    }

    #[test]
    fn after_a_restart_the_recorded_member_has_a_whole_lease() {
        let record = Progress { grant_epoch: 7, member: A, ..Progress::default() };
        let mut grant = Grant::restored(record, 100, RULES);
        assert_eq!(grant.ask(B, 9, 5_099, RULES), Ask::Held);
        assert_eq!(grant.beat(A, 7, 1, 5_099, RULES), Beat::Release);
        let mut other = Grant::restored(record, 100, RULES);
        assert_eq!(granted(&mut other, B, 9, 5_100), 8);
        assert!(!Grant::restored(Progress::default(), 100, RULES).is_live(101));
    }

    #[test]
    fn epochs_are_above_those_of_deleted_records() {
        let mut grant = Grant::default().above(40);
        assert_eq!(granted(&mut grant, A, 1, 0), 41);
        assert_eq!(granted(&mut grant, B, 1, 5_000), 42);
        let mut reset = Grant::default().above(40);
        let CommitDecision::Store(record) = reset.reset(Offset(20), BOUNDS) else { panic!() };
        assert_eq!(record.grant_epoch, 41);
        let record = Progress { grant_epoch: 70, ..Progress::default() };
        assert_eq!(granted(&mut Grant::restored(record, 0, RULES).above(40), A, 1, 0), 71);
        assert_eq!(granted(&mut Grant::restored(record, 0, RULES).above(90), A, 1, 0), 91);
    }

    #[test]
    fn no_clock_uses_the_epochs_up() {
        assert_eq!((epoch_floor(i64::MIN), epoch_floor(0), epoch_floor(EPOCHS_FROM_MS)), (0, 0, 0));
        assert_eq!(epoch_floor(EPOCHS_FROM_MS + 7_999), 7);
        assert_eq!(epoch_floor(i64::MAX), EPOCH_FLOOR_MAX);
        assert_eq!(granted(&mut Grant::default().above(epoch_floor(i64::MAX)), A, 1, 0), EPOCH_FLOOR_MAX + 1);
    }
}
