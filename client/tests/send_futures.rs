//! All public futures are `Send`: they may run on any runtime. A promise of types: compiling is the test.

use std::time::Duration;

use equeue_client::{Admin, Client, Consumer, ConsumerOptions, Message, Producer, PushConsumer, PushOptions};

fn send<T: Send>(_: T) {}
fn shared<T: Send + Sync + Clone>() {}

#[expect(dead_code, reason = "only its types are looked at")]
fn futures_are_send(client: &Client, producer: &Producer, admin: &Admin) {
    send(Client::builder().connect());
    send(client.consumer(ConsumerOptions::default()));
    send(client.close());
    let message = Message::new("t", b"");
    send(producer.send(&message));
    send(producer.enqueue(&message));
    send(producer.enqueue_with(&message, 1));
    send(producer.try_enqueue(&message));
    send(producer.send_batch(&[message]));
    send(producer.flush());
    send(producer.close());
    send(admin.create_topic("t", 1));
    send(admin.list_topics());
    send(admin.list_offsets("t", equeue_net::api::OffsetAt::Last));
}

#[expect(dead_code, reason = "only its types are looked at")]
fn consumer_futures_are_send(consumer: &mut Consumer) {
    send(consumer.pull(1, Duration::ZERO));
    send(consumer.pull_batch(Duration::ZERO));
    send(consumer.commit());
    send(consumer.ends());
}

#[expect(dead_code, reason = "only its types are looked at")]
fn consumers_start_and_end_on_any_thread(client: &Client, consumer: Consumer, pushed: PushConsumer) {
    send(client.push_consumer(ConsumerOptions::default(), PushOptions::default(), |_, _| async { Ok(()) }));
    send(pushed.stop());
    send(consumer.into_stream().into_consumer());
}

#[test]
fn handles_are_shared_between_threads() {
    shared::<Client>();
    shared::<Producer>();
    shared::<Admin>();
}
