//! The outcome of a batch, shared by all its messages: one allocation per batch, none per message.

use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use equeue_net::api::AckLevel;
use equeue_record::{Offset, QueueKey};

use crate::{Receipt, SendError};

/// Where an acknowledged batch is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BatchReceipt {
    /// Name of the broker.
    pub broker: Arc<str>,
    /// Ordinal of the queue.
    pub queue: u32,
    /// Key of the queue.
    pub queue_key: QueueKey,
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Broker's time at append.
    pub append_time_ms: i64,
    /// Level reached.
    pub level: AckLevel,
    /// Stored by an earlier attempt.
    pub duplicate: bool,
    /// Check of the cluster's name.
    pub cluster_check: u16,
}

impl BatchReceipt {
    /// The receipt of the message at `index` of the batch.
    pub(crate) fn message(&self, index: u32) -> Receipt {
        Receipt {
            broker: Arc::clone(&self.broker),
            queue: self.queue,
            queue_key: self.queue_key,
            offset: self.base_offset.plus(u64::from(index)),
            append_time_ms: self.append_time_ms,
            level: self.level,
            duplicate: self.duplicate,
            cluster_check: self.cluster_check,
        }
    }
}

/// The outcome to come of one batch.
#[derive(Debug, Default)]
pub(crate) struct Completion {
    outcome: OnceLock<Result<BatchReceipt, SendError>>,
    /// Of the deliveries that were polled before the outcome was there.
    wakers: Mutex<Vec<Waker>>,
}

/// The outcome of one message of a batch.
pub(super) fn of_message(
    outcome: Result<&BatchReceipt, &SendError>,
    index: u32,
) -> Result<Receipt, SendError> {
    outcome.map(|receipt| receipt.message(index)).map_err(Clone::clone)
}

impl Completion {
    /// Sets the outcome and wakes all deliveries. The first outcome stays.
    pub(crate) fn complete(&self, outcome: Result<BatchReceipt, SendError>) {
        if self.outcome.set(outcome).is_ok() {
            let wakers = std::mem::take(&mut *self.wakers.lock().unwrap_or_else(PoisonError::into_inner));
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    /// The outcome of the message at `index`, if it is there.
    pub(crate) fn outcome(&self, index: u32) -> Option<Result<Receipt, SendError>> {
        Some(of_message(self.outcome.get()?.as_ref(), index))
    }
}

/// The acknowledgement to come of one message. Shares its batch's completion: costs no allocation. Dropping it does
/// not take the message back.
#[derive(Debug)]
#[must_use = "the message is only known to be stored once its delivery resolves"]
pub struct Delivery {
    completion: Arc<Completion>,
    index: u32,
    /// Place of its waker in the completion.
    slot: Option<usize>,
}

impl Delivery {
    pub(crate) fn new(completion: Arc<Completion>, index: u32) -> Self {
        Self { completion, index, slot: None }
    }
}

impl Future for Delivery {
    type Output = Result<Receipt, SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(outcome) = self.completion.outcome(self.index) {
            return Poll::Ready(outcome);
        }
        let completion = Arc::clone(&self.completion);
        let mut wakers = completion.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        // The outcome may have come before the lock: after this check it finds the waker.
        if let Some(outcome) = completion.outcome(self.index) {
            return Poll::Ready(outcome);
        }
        if let Some(waker) = self.slot.and_then(|slot| wakers.get_mut(slot)) {
            waker.clone_from(cx.waker());
        } else {
            self.slot = Some(wakers.len());
            wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn receipt() -> BatchReceipt {
        BatchReceipt {
            broker: "b".into(),
            queue: 3,
            queue_key: QueueKey(9),
            base_offset: Offset(100),
            append_time_ms: 5,
            level: AckLevel::Durable,
            duplicate: false,
            cluster_check: 1,
        }
    }

    #[test]
    fn one_outcome_wakes_and_serves_every_message() {
        let completion = Arc::new(Completion::default());
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Arc::clone(&count).into();
        let mut cx = Context::from_waker(&waker);
        let mut first = Delivery::new(Arc::clone(&completion), 0);
        let mut third = Delivery::new(Arc::clone(&completion), 2);
        assert!(Pin::new(&mut first).poll(&mut cx).is_pending());
        assert!(Pin::new(&mut first).poll(&mut cx).is_pending());
        assert!(Pin::new(&mut third).poll(&mut cx).is_pending());
        completion.complete(Ok(receipt()));
        assert_eq!(count.0.load(Ordering::SeqCst), 2, "one wake a delivery, however often it was polled");
        completion.complete(Err(SendError::Closed));
        let Poll::Ready(Ok(receipt)) = Pin::new(&mut third).poll(&mut cx) else { panic!("not acknowledged") };
        assert_eq!((receipt.offset, receipt.queue), (Offset(102), 3));
        assert!(matches!(Pin::new(&mut first).poll(&mut cx), Poll::Ready(Ok(r)) if r.offset == Offset(100)));
    }
}
