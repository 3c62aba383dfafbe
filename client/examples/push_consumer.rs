//! Prints the messages of a topic until Ctrl-C. Start it several times: the members of the group share the queues.
//!
//! `cargo run -p equeue-client --example push_consumer -- 127.0.0.1:9493 orders printers`

use equeue_client::{Client, ConsumerOptions, Context, PushOptions, Received, Subscription};

#[tokio::main]
#[expect(clippy::print_stdout, reason = "an example talks to its user")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let nameserver = arguments.next().unwrap_or_else(|| "127.0.0.1:9493".to_owned());
    let topic = arguments.next().unwrap_or_else(|| "orders".to_owned());
    let group = arguments.next().unwrap_or_else(|| "printers".to_owned());

    let client = Client::builder().nameservers([nameserver]).connect().await?;
    let options =
        ConsumerOptions { group, topics: vec![Subscription::all(topic)], ..ConsumerOptions::default() };
    // As many handlers at a time as there are cores.
    let handler = |message: Received, _: Context| async move {
        let body = String::from_utf8_lossy(message.body.as_deref().unwrap_or_default()).into_owned();
        println!("queue {} offset {}: {body}", message.queue, message.offset);
        Ok(())
    };
    let consumer = client.push_consumer(options, PushOptions::default(), handler).await?;
    tokio::signal::ctrl_c().await?;
    // Finishes what is in the handlers, commits, and gives the queues to the other members.
    consumer.stop().await?;
    client.close().await;
    Ok(())
}
