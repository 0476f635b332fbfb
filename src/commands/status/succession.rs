//! Which of several sets of a domain has to be fresh: a new chain ends the one before, so the newest set alone.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::health::{newest, point_in_time};
use crate::commands::backup::disks::owner;
use crate::set::catalogue::{Catalogue, Run};

/// What is known of a set's place among those of its domain.
#[derive(Debug, Clone)]
pub struct Place {
    directory: PathBuf,
    domain: Uuid,
    /// The moment that its newest run holds.
    point: jiff::Timestamp,
    /// A run can build on it: it is not copies alone.
    has_chain: bool,
}

impl Place {
    /// None for a set without runs of the past, or that does not tell the domain.
    pub fn of(directory: &Path, catalogue: &Catalogue, now: &jiff::Zoned) -> Option<Self> {
        let newest = newest(catalogue, now)?;
        Some(Self {
            directory: directory.to_owned(),
            domain: owner(catalogue, newest)?.0,
            point: point_in_time(newest).timestamp(),
            has_chain: catalogue.runs.iter().any(Run::is_base),
        })
    }

    /// The newest of `others` that took this one's place. Copies never end a chain.
    pub fn successor<'p>(&self, others: impl IntoIterator<Item = &'p Self>) -> Option<&'p Path> {
        let takes_over = |other: &&Self| {
            other.domain == self.domain && other.point > self.point && (other.has_chain || !self.has_chain)
        };
        let newest = others.into_iter().filter(takes_over).max_by_key(|other| (other.has_chain, other.point))?;
        Some(&newest.directory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(directory: &str, domain: u128, second: i64, has_chain: bool) -> Place {
        let point = jiff::Timestamp::from_second(second).unwrap();
        Place { directory: directory.into(), domain: Uuid::from_u128(domain), point, has_chain }
    }

    #[test]
    fn the_newest_chain_of_a_domain_ends_the_others() {
        let all = [
            place("october", 1, 100, true),
            place("november", 1, 200, true),
            place("december", 1, 300, true),
            place("copy", 1, 400, false),
            place("older copy", 1, 250, false),
            place("other", 2, 50, true),
        ];
        let of = |name: &str| {
            let place = all.iter().find(|place| place.directory == Path::new(name)).unwrap();
            place.successor(&all).and_then(Path::to_str)
        };
        assert_eq!(of("october"), Some("december"));
        assert_eq!(of("november"), Some("december"));
        assert_eq!((of("december"), of("copy"), of("other")), (None, None, None));
        assert_eq!(of("older copy"), Some("december"));
    }
}
