//! A share of the users, the same ones wherever and whenever it is asked.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Id;

/// Hundredths of a percent in the whole.
const WHOLE: u32 = 10_000;

/// Sets the choice of users apart from every other use of their hashes.
const LANE: Id = Id(0x5348_4152);

/// A share of the users, chosen by a hash of their ids; written as a percentage such as `5%` or `0.25%`.
///
/// The users of a smaller share are among those of a larger one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserShare(u32);

impl UserShare {
    /// Whether the user is one of the share.
    #[must_use]
    pub fn contains(self, user: Id) -> bool {
        user.pair(LANE).0 % u64::from(WHOLE) < u64::from(self.0)
    }

    /// As a fraction, above 0 and up to 1.
    #[must_use]
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / f64::from(WHOLE)
    }
}

impl fmt::Display for UserShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(self.0) / 100.0)
    }
}

impl From<UserShare> for String {
    fn from(share: UserShare) -> Self {
        share.to_string()
    }
}

impl FromStr for UserShare {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not a share of the users: expected a percentage of at most two decimals, above 0% and up to \
                 100%, such as 5% or 0.25%"
            )
        };
        let digits = text.strip_suffix('%').ok_or_else(wrong)?;
        let (whole, decimals) = digits.split_once('.').unwrap_or((digits, ""));
        let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty()
            || whole.len() > 3
            || decimals.len() > 2
            || !is_number(whole)
            || !is_number(decimals)
        {
            return Err(wrong());
        }
        let hundredths: u32 = format!("{whole}{decimals:0<2}").parse().map_err(|_| wrong())?;
        match hundredths {
            1..=WHOLE => Ok(Self(hundredths)),
            _ => Err(wrong()),
        }
    }
}

impl TryFrom<String> for UserShare {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{IdKind, IdSpace};

    #[test]
    fn a_share_is_a_percentage_above_0_up_to_100() {
        for (text, shown) in [
            ("5%", "5%"),
            ("0.25%", "0.25%"),
            ("012.5%", "12.5%"),
            ("100%", "100%"),
        ] {
            let share: UserShare = text.parse().unwrap();
            assert_eq!(share.to_string(), shown);
            assert_eq!(shown.parse(), Ok(share));
        }
        for text in [
            "5", "0%", "0.00%", "100.01%", "-1%", "1.234%", "%", ".5%", "1e1%", "5 %",
        ] {
            assert!(text.parse::<UserShare>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_share_has_so_many_users_and_a_larger_one_has_them_too() {
        let ids = IdSpace::new(3);
        let share = |text: &str| text.parse::<UserShare>().unwrap();
        let (small, large, all) = (share("5%"), share("20%"), share("100%"));
        let users: Vec<Id> = (0..20_000)
            .map(|n| ids.id(IdKind::User, &format!("user-{n}")))
            .collect();
        let count = |share: UserShare| users.iter().filter(|user| share.contains(**user)).count();
        assert!((900..1100).contains(&count(small)), "{}", count(small));
        assert!((3800..4200).contains(&count(large)), "{}", count(large));
        assert_eq!(count(all), users.len());
        assert!(
            users
                .iter()
                .all(|user| !small.contains(*user) || large.contains(*user))
        );
        assert!((share("0.25%").fraction() - 0.0025).abs() < 1e-12);
    }
}
