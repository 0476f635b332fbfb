//! Raw disks that the newest restore point does not have: increments leave them out, so what a restore would take is
//! as old as the newest image.

use std::time::Duration;

use super::health::{Condition, format_age, point_in_time};
use crate::set::catalogue::{Catalogue, Run};

/// The newest image of a raw disk, where the newest restore point has none.
#[derive(Debug)]
pub struct Image {
    /// The disk.
    pub target: String,
    /// The moment that it holds.
    pub of: jiff::Zoned,
    age: Duration,
}

/// The images of the raw disks that `newest` left out. A disk that it does not mention is not the domain's any more, or
/// was not to be in it.
pub fn images(catalogue: &Catalogue, newest: &Run, now: &jiff::Zoned) -> Vec<Image> {
    let is_left_out = |target: &str| {
        let skipped = newest.manifest.as_ref().map(|manifest| &manifest.skipped);
        // virtnbdbackup does not note what it left out.
        newest.stream(target).is_none()
            && skipped.is_none_or(|skipped| skipped.iter().any(|disk| disk.target == target))
    };
    let mut images: Vec<Image> = Vec::new();
    for run in catalogue.runs.iter().rev() {
        for stream in run.streams.iter().filter(|stream| stream.raw_disk && is_left_out(&stream.target)) {
            if images.iter().all(|known| known.target != stream.target) {
                let of = point_in_time(run).clone();
                let age = Duration::try_from(now.duration_since(&of)).unwrap_or_default();
                images.push(Image { target: stream.target.clone(), of, age });
            }
        }
    }
    images
}

impl Image {
    /// Says where it is older than a backup may be. It is a warning: the other disks are not concerned.
    pub fn finding(&self, max: Duration, warn: Option<Duration>) -> Option<(Condition, String)> {
        let limit = [Some(max), warn].into_iter().flatten().find(|limit| self.age > *limit)?;
        Some((Condition::Warning, format!("the image of raw disk {} is older than {}", self.target, format_age(limit))))
    }

    /// Which image a restore would take.
    pub fn text(&self) -> String {
        format!("raw disk {} as of {} ({} ago)", self.target, self.of.strftime("%Y-%m-%d %H:%M"), format_age(self.age))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_image_is_a_warning() {
        let hours = |hours: u64| Duration::from_secs(3600 * hours);
        let image = |age| Image { target: "vdb".into(), of: jiff::Zoned::now(), age: Duration::from_secs(age) };
        assert_eq!(image(93_600).finding(hours(26), None), None);
        let (condition, text) = image(93_601).finding(hours(26), None).unwrap();
        assert_eq!((condition, &*text), (Condition::Warning, "the image of raw disk vdb is older than 1 d 2 h"));
        let (_, text) = image(3601).finding(hours(26), Some(hours(1))).unwrap();
        assert_eq!(text, "the image of raw disk vdb is older than 1 h");
    }
}
