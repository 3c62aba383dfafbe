//! Pulls messages in chunks and commits each chunk once it is printed.
//!
//! `cargo run -p equeue-client --example pull_consumer -- 127.0.0.1:9493 orders accountants`

use std::time::Duration;

use equeue_client::{Client, ConsumerOptions, Subscription};

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "an example talks to its user")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let nameserver = arguments.next().unwrap_or_else(|| "127.0.0.1:9493".to_owned());
    let topic = arguments.next().unwrap_or_else(|| "orders".to_owned());
    let group = arguments.next().unwrap_or_else(|| "accountants".to_owned());

    let client = Client::builder().nameservers([nameserver]).connect().await?;
    let options = ConsumerOptions {
        group,
        topics: vec![Subscription::all(topic)],
        // Only what is committed here counts as handled.
        commit_interval: None,
        ..ConsumerOptions::default()
    };
    let mut consumer = client.consumer(options).await?;
    let mut idle = 0;
    while idle < 5 {
        let messages = consumer.pull(100, Duration::from_secs(1)).await?;
        idle = if messages.is_empty() { idle + 1 } else { 0 };
        for message in &messages {
            let body = String::from_utf8_lossy(message.body.as_deref().unwrap_or_default()).into_owned();
            println!("queue {} offset {}: {body}", message.queue, message.offset);
        }
        if let Err(error) = consumer.commit().await {
            // Another member has the queue by now and gets these messages again.
            println!("not committed: {error}");
        }
    }
    let lag: u64 = consumer.positions().iter().map(equeue_client::QueuePosition::lag).sum();
    println!("nothing more for 5 s; {lag} messages behind");
    consumer.close().await?;
    client.close().await;
    Ok(())
}
