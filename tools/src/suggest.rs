//! "Did you mean": the nearest of the names that exist.

/// The known name that was probably meant, if one is near enough.
pub(crate) fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A third of the letters may be wrong, at least two: typing slips, not different words.
    let allowed = (wrong.chars().count() / 3).max(2);
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&wrong.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// The known dotted key that was probably meant: the nearest path, or the same last word elsewhere.
pub(crate) fn nearest_key<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    let last_word = |key: &str| key.rsplit('.').next().unwrap_or_default().to_lowercase();
    nearest(wrong, known.iter().copied()).or_else(|| {
        let wrong_word = last_word(wrong);
        known
            .iter()
            .copied()
            .map(|key| (strsim::damerau_levenshtein(&wrong_word, &last_word(key)), key))
            .filter(|(distance, _)| *distance <= 2 && wrong_word.len() > 2)
            .min_by_key(|(distance, _)| *distance)
            .map(|(_, key)| key)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_other_words_are_not() {
        let topics = ["orders", "payments", "invoices"];
        assert_eq!(nearest("oders", topics), Some("orders"));
        assert_eq!(nearest("Payment", topics), Some("payments"));
        assert_eq!(nearest("shipping", topics), None);
    }

    #[test]
    fn a_key_in_the_wrong_section_is_found() {
        let keys = ["listen", "storage.sync", "memory.limit"];
        assert_eq!(nearest_key("storage.synch", &keys), Some("storage.sync"));
        assert_eq!(nearest_key("sync", &keys), Some("storage.sync"));
        assert_eq!(nearest_key("colour", &keys), None);
    }
}
