//! Pages of lists that are read in the order of ids, without a count and without an offset.

use uuid::Uuid;

use super::rows::Found;
use super::{Listing, Page};

impl Page {
    /// The id after which a page in rising order begins.
    pub(super) fn beginning(self) -> Uuid {
        self.after.unwrap_or(Uuid::nil())
    }

    /// The id before which a page in falling order begins.
    pub(super) fn end(self) -> Uuid {
        self.after.unwrap_or(Uuid::max())
    }

    /// How many rows to ask for: one more than fit tells whether there is another page.
    pub(super) fn one_more(self) -> i64 {
        i64::from(self.limit).saturating_add(1)
    }

    /// The page of what was found.
    pub(super) fn listing<T>(self, found: Vec<Found<T>>, id: impl Fn(&T) -> Uuid) -> Listing<T> {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let more = found.len() > limit;
        let items: Vec<T> = found
            .into_iter()
            .take(limit)
            .map(|Found(item)| item)
            .collect();
        let last = items.last().map(id);
        Listing {
            items,
            next: last.filter(|_| more),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_knows_whether_there_is_another() {
        let page = Page {
            after: None,
            limit: 2,
        };
        let ids = [1, 2, 3].map(Uuid::from_u128);
        let listing = |count: usize| {
            page.listing(
                ids.iter().copied().take(count).map(Found).collect(),
                |&id| id,
            )
        };
        assert_eq!(listing(0).next, None);
        assert_eq!(listing(2).next, None);
        assert_eq!(listing(2).items, ids[..2]);
        assert_eq!(listing(3).next, Some(ids[1]));
        assert_eq!(listing(3).items, ids[..2]);
    }
}
