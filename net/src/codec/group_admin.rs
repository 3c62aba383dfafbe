//! Headers of what operators ask about groups.

use equeue_record::{Offset, QueueKey};

use super::grants::COMMITTED;
use super::membership::member;
use super::read::{Check, incarnation, root};
use super::write;
use crate::Code;
use crate::api::{
    DecodeError, DescribeGroupAnswer, GrantHolder, GroupQueueState, GroupSummary, Kind, ListGroupsAnswer,
    MemberState, Message, ResetOffsets, ResetOffsetsAnswer, ResetOutcome,
};
use crate::limits::{
    ADDRESS_BYTES_MAX, GROUP_MEMBERS_MAX, GROUP_QUEUES_MAX, GROUPS_MAX, OFFSET_ITEMS_MAX, TOPICS_MAX,
};
use crate::schema::wire;

/// Index of a holder that is nobody.
const NOBODY: u16 = u16::MAX;

write::empty! { ListGroups ListGroupsArgs; }
write::one_name! { DescribeGroup DescribeGroupArgs group; DeleteGroup DeleteGroupArgs group; }
write::status_only! { DeleteGroupAnswer DeleteGroupAnswerArgs DeleteGroup; }

impl Message for ListGroupsAnswer {
    const KIND: Kind = Kind::ListGroups;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let (status, detail) = write::answer_head!(b, self);
            let groups = write::tables(b, &self.groups, |b, group| {
                let name = b.create_string(&group.name);
                wire::GroupSummary::create(
                    b,
                    &wire::GroupSummaryArgs {
                        name: Some(name),
                        members: group.members,
                        queues: group.queues,
                        lag: group.lag,
                        generation: group.generation,
                        active_ms: group.active_ms,
                        expires_ms: group.expires_ms,
                    },
                )
            });
            let args = wire::ListGroupsAnswerArgs { status: Some(&status), detail, groups };
            wire::ListGroupsAnswer::create(b, &args)
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::ListGroupsAnswer<'_>>(Self::KIND, header)?;
        let groups = check.list("groups", table.groups(), GROUPS_MAX, |group| {
            Ok(GroupSummary {
                name: check.required_name("group.name", group.name())?,
                members: group.members(),
                queues: group.queues(),
                lag: group.lag(),
                generation: group.generation(),
                active_ms: group.active_ms(),
                expires_ms: group.expires_ms(),
            })
        })?;
        Ok(Self { status: check.status(*table.status(), table.detail())?, groups })
    }
}

fn write_queue(queue: &GroupQueueState) -> wire::GroupQueueState {
    wire::GroupQueueState::new(
        queue.queue.0,
        queue.committed.unwrap_or_default().0,
        queue.start_offset.0,
        queue.high_watermark.0,
        queue.committed_ms,
        queue.rate_milli,
        queue.ordinal,
        queue.grant_epoch,
        queue.lease_left_ms,
        queue.topic,
        queue.holder.unwrap_or(NOBODY),
        if queue.committed.is_some() { COMMITTED } else { 0 },
        queue.cached,
    )
}

fn read_queue(queue: &wire::GroupQueueState) -> GroupQueueState {
    GroupQueueState {
        queue: QueueKey(queue.queue()),
        topic: queue.topic_index(),
        ordinal: queue.ordinal(),
        holder: (queue.holder_index() != NOBODY).then_some(queue.holder_index()),
        grant_epoch: queue.grant_epoch(),
        lease_left_ms: queue.lease_left_ms(),
        cached: queue.cached(),
        committed: (queue.flags() & COMMITTED != 0).then_some(Offset(queue.committed())),
        committed_ms: queue.committed_ms(),
        rate_milli: queue.rate_milli(),
        start_offset: Offset(queue.start_offset()),
        high_watermark: Offset(queue.high_watermark()),
    }
}

impl Message for DescribeGroupAnswer {
    const KIND: Kind = Kind::DescribeGroup;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let (status, detail) = write::answer_head!(b, self);
            let members = write::tables(b, &self.members, |b, state| {
                let member = member(b, &state.member);
                let address = write::text(b, &state.address);
                wire::MemberState::create(
                    b,
                    &wire::MemberStateArgs { member: Some(member), address, seen_ms_ago: state.seen_ms_ago },
                )
            });
            let topics = write::names(b, &self.topics);
            let holders = write::tables(b, &self.holders, |b, holder| {
                let client_id = write::text(b, &holder.client_id);
                let incarnation = write::incarnation(holder.incarnation);
                let args = wire::GrantHolderArgs { incarnation: Some(&incarnation), client_id };
                wire::GrantHolder::create(b, &args)
            });
            let queues = write::structs(b, self.queues.iter().map(write_queue));
            wire::DescribeGroupAnswer::create(
                b,
                &wire::DescribeGroupAnswerArgs {
                    status: Some(&status),
                    detail,
                    generation: self.generation,
                    members,
                    topics,
                    holders,
                    queues,
                },
            )
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::DescribeGroupAnswer<'_>>(Self::KIND, header)?;
        let members = check.list("members", table.members(), GROUP_MEMBERS_MAX, |state| {
            Ok(MemberState {
                member: check.member(state.member())?,
                address: check.text("member.address", state.address(), ADDRESS_BYTES_MAX)?,
                seen_ms_ago: state.seen_ms_ago(),
            })
        })?;
        let holders = check.list("holders", table.holders(), usize::from(NOBODY), |holder| {
            Ok(GrantHolder {
                client_id: check.name("holder.client_id", holder.client_id())?,
                incarnation: incarnation(holder.incarnation()),
            })
        })?;
        let topics = check.names("topics", table.topics(), TOPICS_MAX)?;
        let queues = check.list("queues", table.queues(), GROUP_QUEUES_MAX, |queue| Ok(read_queue(queue)))?;
        let refers = |queue: &GroupQueueState| {
            usize::from(queue.topic) < topics.len()
                && queue.holder.is_none_or(|holder| usize::from(holder) < holders.len())
        };
        if !queues.iter().all(refers) {
            return Err(check.refuse("queues.topic_index"));
        }
        Ok(Self {
            status: check.status(*table.status(), table.detail())?,
            generation: table.generation(),
            members,
            topics,
            holders,
            queues,
        })
    }
}

impl Message for ResetOffsets {
    const KIND: Kind = Kind::ResetOffsets;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let group = b.create_string(&self.group);
            let items = self.items.iter().map(|(queue, offset)| wire::ResetItem::new(queue.0, offset.0));
            let items = b.create_vector_from_iter(items);
            wire::ResetOffsets::create(
                b,
                &wire::ResetOffsetsArgs { group: Some(group), dry_run: self.dry_run, items: Some(items) },
            )
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::ResetOffsets<'_>>(Self::KIND, header)?;
        let items = check.list("items", Some(table.items()), OFFSET_ITEMS_MAX, |item| {
            Ok((QueueKey(item.queue()), Offset(item.offset())))
        })?;
        check.once("items.queue", items.iter().map(|(queue, _): &(QueueKey, Offset)| *queue))?;
        let group = check.required_name("group", table.group())?;
        Ok(Self { group, dry_run: table.dry_run(), items })
    }
}

impl Message for ResetOffsetsAnswer {
    const KIND: Kind = Kind::ResetOffsets;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let (status, detail) = write::answer_head!(b, self);
            let outcomes = self.outcomes.iter().map(|outcome| {
                wire::ResetOutcome::new(
                    outcome.queue.0,
                    outcome.before.unwrap_or_default().0,
                    outcome.after.0,
                    outcome.start_offset.0,
                    outcome.high_watermark.0,
                    outcome.grant_epoch,
                    outcome.code as u16,
                    if outcome.before.is_some() { COMMITTED } else { 0 },
                )
            });
            let outcomes = write::structs(b, outcomes);
            let args = wire::ResetOffsetsAnswerArgs { status: Some(&status), detail, outcomes };
            wire::ResetOffsetsAnswer::create(b, &args)
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::ResetOffsetsAnswer<'_>>(Self::KIND, header)?;
        let outcomes = check.list("outcomes", table.outcomes(), OFFSET_ITEMS_MAX, |outcome| {
            Ok(ResetOutcome {
                queue: QueueKey(outcome.queue()),
                code: Code::from_number(outcome.code()),
                before: (outcome.flags() & COMMITTED != 0).then_some(Offset(outcome.before())),
                after: Offset(outcome.after()),
                grant_epoch: outcome.grant_epoch(),
                start_offset: Offset(outcome.start_offset()),
                high_watermark: Offset(outcome.high_watermark()),
            })
        })?;
        Ok(Self { status: check.status(*table.status(), table.detail())?, outcomes })
    }
}
