use bytes::BytesMut;
use equeue_record::{BatchHeader, Codec, RecordFields, check_batch};

use super::super::intake::{BatchPlan, Incoming, Intake, Opening};
use super::*;

fn batch(messages: u32, now: Instant) -> Batch {
    let plan = BatchPlan {
        codec: Codec::None,
        bytes_max: 1 << 16,
        single_bytes_max: 1 << 16,
        open_max: Duration::from_secs(1),
    };
    let mut intake = Intake::default();
    for _ in 0..messages {
        let incoming = Incoming {
            fields: RecordFields { body: Some(b"x"), ..RecordFields::default() },
            create_now: true,
            content_bytes: 1,
            permits: 1,
            token: None,
            bound: true,
        };
        let opening = || Opening { at: now, wall_ms: 0 };
        intake.push(incoming, &plan, Duration::ZERO, opening, BytesMut::new).unwrap();
    }
    intake.take(true, Duration::ZERO, now).unwrap()
}

fn outbox() -> Outbox {
    Outbox::new(|| 77)
}

fn header(bytes: &Bytes) -> BatchHeader {
    check_batch(bytes).expect("frozen batches are whole")
}

/// Sends three batches of 2, 3 and 4 messages.
fn three(outbox: &mut Outbox, now: Instant) -> Vec<ToSend> {
    [2, 3, 4].into_iter().map(|messages| outbox.freeze(batch(messages, now)).unwrap()).collect()
}

#[test]
fn a_batch_without_an_answer_holds_back_those_beyond_what_the_broker_remembers() {
    let now = Instant::now();
    let mut outbox = outbox();
    let sent: Vec<ToSend> = (0..5).map(|_| outbox.freeze(batch(1, now)).unwrap()).collect();
    for later in &sent[1..] {
        outbox.stored(later.number);
    }
    assert!(!outbox.has_room(5), "batch 1 is not answered and batch 6 would be the sixth");
    outbox.stored(sent[0].number);
    assert!(outbox.has_room(5));
}

#[test]
fn sequences_follow_one_another_and_resends_are_the_same_bytes() {
    let now = Instant::now();
    let mut outbox = outbox();
    let sent = three(&mut outbox, now);
    let sequences: Vec<i32> = sent.iter().map(|sent| header(&sent.bytes).base_sequence).collect();
    assert_eq!(sequences, [0, 2, 5]);
    assert!(outbox.has_room(5) && !outbox.has_room(3));
    for sent in &sent {
        outbox.lost(sent.number);
    }
    assert!(outbox.settle().is_empty());
    assert!(!outbox.has_room(5), "what is to be sent again goes first");
    for first in &sent {
        let again = outbox.resend(now).unwrap();
        assert_eq!((again.number, &again.bytes, again.again.is_some()), (first.number, &first.bytes, true));
    }
    assert!(outbox.resend(now).is_none());
    for sent in &sent {
        assert_eq!(outbox.stored(sent.number).unwrap().audience.unwrap().completion.outcome(0), None);
    }
    assert!(outbox.is_empty());
}

#[test]
fn a_gap_behind_an_unsettled_batch_is_resent_from_it() {
    let now = Instant::now();
    let mut outbox = outbox();
    let sent = three(&mut outbox, now);
    let later = now + Duration::from_millis(50);
    outbox.again(sent[0].number, later, false);
    outbox.out_of_sequence(sent[1].number);
    assert!(outbox.settle().is_empty());
    assert!(outbox.resend(later).is_none(), "the third is still on its way");
    outbox.out_of_sequence(sent[2].number);
    assert!(outbox.settle().is_empty());
    assert!(outbox.resend(now).is_none(), "the broker asked to wait");
    let again: Vec<u64> = std::iter::from_fn(|| outbox.resend(later)).map(|again| again.number).collect();
    assert_eq!(again, sent.iter().map(|sent| sent.number).collect::<Vec<_>>());
}

#[test]
fn a_broker_that_forgot_the_producer_gets_a_new_epoch_in_order() {
    let now = Instant::now();
    let mut outbox = outbox();
    let first = outbox.freeze(batch(7, now)).unwrap();
    outbox.stored(first.number).unwrap();
    let sent = three(&mut outbox, now);
    outbox.lost(sent[0].number);
    for sent in &sent {
        outbox.out_of_sequence(sent.number);
        assert!(outbox.settle().is_empty());
    }
    let again: Vec<BatchHeader> =
        std::iter::from_fn(|| outbox.resend(now)).map(|again| header(&again.bytes)).collect();
    let stamps: Vec<_> = again.iter().map(|header| (header.producer_epoch, header.base_sequence)).collect();
    assert_eq!(stamps, [(1, 0), (1, 2), (1, 5)]);
    assert_eq!(header(&outbox.freeze(batch(1, now)).unwrap().bytes).base_sequence, 9);
}

#[test]
fn giving_up_an_unknown_batch_begins_an_epoch_without_the_unknown_ones() {
    let now = Instant::now();
    let limit = Duration::from_secs(5);
    let mut outbox = outbox();
    let sent = three(&mut outbox, now);
    outbox.lost(sent[0].number);
    outbox.lost(sent[1].number);
    outbox.again(sent[2].number, now, false);
    let late = now + limit;
    let expired = outbox.expire(late, limit);
    assert_eq!(expired.iter().map(|expired| expired.unknown).collect::<Vec<_>>(), [true, true, false]);
    assert!(outbox.expire(late, limit).is_empty(), "each is told once");
    assert!(outbox.settle().is_empty());
    assert!(outbox.is_empty());
    let next = header(&outbox.freeze(batch(1, late)).unwrap().bytes);
    assert_eq!((next.producer_epoch, next.base_sequence), (1, 0));
}

#[test]
fn younger_unknown_batches_fail_with_the_one_given_up_and_known_ones_go_on() {
    let now = Instant::now();
    let limit = Duration::from_secs(5);
    let mut outbox = outbox();
    let old = outbox.freeze(batch(1, now)).unwrap();
    let young: Vec<ToSend> = (0..2).map(|_| outbox.freeze(batch(1, now + limit / 2)).unwrap()).collect();
    outbox.lost(old.number);
    outbox.lost(young[0].number);
    outbox.again(young[1].number, now, false);
    assert_eq!(outbox.expire(now + limit, limit).len(), 1);
    let failed = outbox.settle();
    assert_eq!(failed.len(), 1, "the unknown one cannot go into the new epoch");
    let again = outbox.resend(now + limit).unwrap();
    assert_eq!(again.number, young[1].number);
    let header = header(&again.bytes);
    assert_eq!((header.producer_epoch, header.base_sequence), (1, 0));
}

#[test]
fn a_late_success_of_an_expired_batch_costs_no_epoch() {
    let now = Instant::now();
    let limit = Duration::from_secs(5);
    let mut outbox = outbox();
    let sent = three(&mut outbox, now);
    assert_eq!(outbox.expire(now + limit, limit).len(), 3);
    for sent in &sent {
        assert!(outbox.settle().is_empty());
        assert!(outbox.stored(sent.number).unwrap().audience.is_none());
    }
    let next = header(&outbox.freeze(batch(1, now)).unwrap().bytes);
    assert_eq!((next.producer_epoch, next.base_sequence), (0, 9));
}

#[test]
fn a_refused_batch_does_not_stop_those_behind_it() {
    let now = Instant::now();
    let mut outbox = outbox();
    let sent = three(&mut outbox, now);
    assert!(outbox.refused(sent[0].number).unwrap().audience.is_some());
    assert!(outbox.settle().is_empty());
    assert!(outbox.resend(now).is_none());
    outbox.out_of_sequence(sent[1].number);
    outbox.out_of_sequence(sent[2].number);
    assert!(outbox.settle().is_empty());
    let again: Vec<i32> =
        std::iter::from_fn(|| outbox.resend(now)).map(|again| header(&again.bytes).base_sequence).collect();
    assert_eq!(again, [0, 3]);
}

#[test]
fn the_last_epoch_is_followed_by_another_producer_id() {
    let now = Instant::now();
    let mut outbox = outbox();
    outbox.producer_epoch = i16::MAX;
    outbox.fresh_id = || 88;
    let sent = outbox.freeze(batch(1, now)).unwrap();
    outbox.out_of_sequence(sent.number);
    outbox.settle();
    let header = header(&outbox.resend(now).unwrap().bytes);
    assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (88, 0, 0));
}
