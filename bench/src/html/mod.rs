//! A result as one HTML page with charts (`--html`): it needs no other file and no network, follows the reader's choice of
//! light or dark, and fits a phone.
//!
//! The page holds the JSON result as it is; `charts.js` draws it as SVG in the browser. So nothing is drawn here, and what
//! the page shows is what `--json` writes.

use anyhow::{Context as _, Result};
use serde_json::Value;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("style.css");
const CHARTS: &str = include_str!("charts.js");
const REPORT: &str = include_str!("report.js");

/// The page of a result.
///
/// # Errors
/// When the result cannot be written as JSON.
pub(crate) fn page(result: &Value) -> Result<String> {
    let data = embedded(&serde_json::to_string(result).context("writing the result as JSON")?);
    let text = |key: &str| result.get(key).and_then(Value::as_str).unwrap_or_default();
    let title = escaped(&format!("equeue bench {} - {}", text("command"), text("git")));
    let mut page = String::with_capacity(PAGE.len() + STYLE.len() + CHARTS.len() + REPORT.len() + data.len());
    let mut rest = PAGE;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").context("the page's template is whole")?;
        page.push_str(before);
        page.push_str(match name {
            "title" => &title,
            "style" => STYLE,
            "charts" => CHARTS,
            "report" => REPORT,
            _ => &data,
        });
        rest = after;
    }
    page.push_str(rest);
    Ok(page)
}

/// JSON that cannot end the script element it stands in: `<` occurs in strings alone, where it can be written so.
fn embedded(json: &str) -> String {
    json.replace('<', "\\u003c")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_page_stands_alone_and_holds_the_result() {
        let result =
            json!({"command": "latency", "git": "<b>", "warnings": ["</script><script>alert(1)</script>"]});
        let page = page(&result).expect("written");
        for outside in ["http://", "https://", "src=", "@import", "url("] {
            let found = page.replace("http://www.w3.org/2000/svg", "");
            assert!(!found.contains(outside), "{outside}");
        }
        assert!(
            !page.contains("{{") && !page.contains("alert(1)</script>") && !page.contains("<b>"),
            "escaped"
        );
        let data = page.split_once("id=\"result\">").and_then(|(_, rest)| rest.split_once("</script>"));
        let (data, _) = data.expect("the data");
        assert_eq!(serde_json::from_str::<Value>(data).expect("JSON"), result);
    }
}
