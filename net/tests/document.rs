//! docs/protocol.md lists exactly the kinds and codes that the code knows.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed test may panic")]

use equeue_net::api::Kind;
use equeue_net::{Code, Remedy};

const DOCUMENT: &str = include_str!("../../docs/protocol.md");

/// The cells of the table under a heading, without its head.
fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let section = DOCUMENT.split("\n## ").find(|section| section.starts_with(heading)).unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| ")).skip(1);
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

#[test]
fn kinds() {
    let expected: Vec<Vec<String>> = Kind::ALL
        .iter()
        .map(|kind| {
            let row = kind.row();
            let words =
                [format!("{:?}", row.role), format!("{:?}", row.operation), format!("{:?}", row.resource)];
            let mut cells = vec![(*kind as u16).to_string(), kind.name().to_owned()];
            cells.extend(words.map(|word| word.to_lowercase()));
            cells
        })
        .collect();
    let found: Vec<_> = table("Kinds").iter().map(|row| row[..5].to_vec()).collect();
    assert_eq!(found, expected);
}

#[test]
fn codes() {
    let expected: Vec<Vec<String>> = Code::ALL
        .iter()
        .map(|code| {
            let mut name = String::new();
            for letter in format!("{code:?}").chars() {
                if letter.is_ascii_uppercase() && !name.is_empty() {
                    name.push('_');
                }
                name.push(letter.to_ascii_uppercase());
            }
            let remedy = match code.remedy() {
                Remedy::None => "none",
                Remedy::Retry => "retry",
                Remedy::RefreshRoute => "refresh",
                Remedy::Fatal => "fatal",
            };
            vec![(*code as u16).to_string(), format!("`{name}`"), remedy.to_owned(), code.text().to_owned()]
        })
        .collect();
    assert_eq!(table("Codes"), expected);
}
