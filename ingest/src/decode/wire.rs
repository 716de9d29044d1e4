//! The JSON shapes of the contract, borrowed from the payload.
//!
//! Every field is optional here: what must be present is the decoder's to say. A known field of another type
//! fails the whole parse, and [`super::classify`] then finds out which. Unknown fields are skipped and counted.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Text borrowed from the payload when it has no escapes.
#[derive(Debug)]
pub(super) struct Text<'a>(Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

/// What an attribute may hold: one value or several.
#[derive(Debug)]
pub(super) enum Scalar<'a> {
    Text(Text<'a>),
    Bool(bool),
    Integer(i64),
    Unsigned(u64),
    Float(f64),
    Null,
}

/// `value` or `[value, ..]`.
#[derive(Debug)]
pub(super) enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    pub(super) fn as_slice(&self) -> &[T] {
        match self {
            OneOrMany::One(value) => std::slice::from_ref(value),
            OneOrMany::Many(values) => values,
        }
    }
}

/// An object of any names, as the pairs in their order on the wire.
#[derive(Debug)]
pub(super) struct Pairs<'a, V>(pub(super) Vec<(Text<'a>, V)>);

/// Declares a contract object: its fields, those it has and nobody reads, and the parse that counts the rest.
macro_rules! object {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $ty:ty,)* } ignored { $($ignored:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub(super) struct $name<'a> {
            $(pub(super) $field: Option<$ty>,)*
            pub(super) n_unknown: u64,
            pub(super) n_ignored: u64,
        }

        impl<'de> Deserialize<'de> for $name<'de> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Fields;
                impl<'de> Visitor<'de> for Fields {
                    type Value = $name<'de>;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("an object")
                    }
                    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                        let mut object = $name::default();
                        while let Some(key) = map.next_key::<Text<'de>>()? {
                            match &*key {
                                $(stringify!($field) => object.$field = map.next_value()?,)*
                                $($ignored => {
                                    map.next_value::<IgnoredAny>()?;
                                    object.n_ignored += 1;
                                })*
                                _ => {
                                    map.next_value::<IgnoredAny>()?;
                                    object.n_unknown += 1;
                                }
                            }
                        }
                        Ok(object)
                    }
                }
                deserializer.deserialize_map(Fields)
            }
        }
    };
}

object! {
    /// A record of the impressions topic. `served_by` is read by the evaluation of replays only.
    Impression {
        request_id: Text<'a>,
        user_id: Text<'a>,
        ts_ms: i64,
        items: Vec<Shown<'a>>,
        context: Pairs<'a, OneOrMany<Scalar<'a>>>,
    } ignored { "served_by", }
}

object! {
    /// One item of a slate.
    Shown {
        item_id: Text<'a>,
        position: u16,
    } ignored { "features", }
}

object! {
    /// A record of the actions topic.
    Action {
        request_id: Text<'a>,
        item_id: Text<'a>,
        user_id: Text<'a>,
        ts_ms: i64,
        action: Text<'a>,
        value: f32,
    } ignored {}
}

object! {
    /// A record of the items topic.
    Item {
        item_id: Text<'a>,
        ts_ms: i64,
        category: OneOrMany<Text<'a>>,
        author: OneOrMany<Text<'a>>,
        title: Text<'a>,
        text: OneOrMany<Text<'a>>,
        image: Text<'a>,
        vectors: Pairs<'a, Vec<f32>>,
        features: Pairs<'a, OneOrMany<Scalar<'a>>>,
        deleted: bool,
    } ignored {}
}

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrow;
        impl<'de> Visitor<'de> for Borrow {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Borrow)
    }
}

/// Any scalar; lists are refused.
struct AnyScalar;

impl<'de> Visitor<'de> for AnyScalar {
    type Value = Scalar<'de>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a number, a boolean or null")
    }
    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Text(Cow::Borrowed(text))))
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Text(Cow::Owned(text.to_owned()))))
    }
    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Scalar::Bool(value))
    }
    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Scalar::Integer(value))
    }
    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Scalar::Unsigned(value))
    }
    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Scalar::Float(value))
    }
    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Scalar::Null)
    }
}

impl<'de> Deserialize<'de> for Scalar<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyScalar)
    }
}

/// A type made of one scalar, so that it may stand alone where a list of it may stand.
pub(super) trait FromScalar<'de>: Sized {
    /// The value, unless the type does not take such a scalar.
    fn from_scalar(scalar: Scalar<'de>) -> Option<Self>;
}

impl<'de> FromScalar<'de> for Scalar<'de> {
    fn from_scalar(scalar: Scalar<'de>) -> Option<Self> {
        Some(scalar)
    }
}

impl<'de> FromScalar<'de> for Text<'de> {
    fn from_scalar(scalar: Scalar<'de>) -> Option<Self> {
        match scalar {
            Scalar::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl<'de, T: FromScalar<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);
        impl<'de, T: FromScalar<'de>> Either<T> {
            fn value<E: Error>(scalar: Result<Scalar<'de>, E>) -> Result<T, E> {
                T::from_scalar(scalar?).ok_or_else(|| E::custom("expected a string"))
            }
        }
        impl<'de, T: FromScalar<'de>> Visitor<'de> for Either<T> {
            type Value = OneOrMany<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value or a list of values")
            }
            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Self::value(AnyScalar.visit_borrowed_str(text)).map(OneOrMany::One)
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Self::value(AnyScalar.visit_str(text)).map(OneOrMany::One)
            }
            fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
                Self::value(AnyScalar.visit_bool(value)).map(OneOrMany::One)
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
                Self::value(AnyScalar.visit_i64(value)).map(OneOrMany::One)
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
                Self::value(AnyScalar.visit_u64(value)).map(OneOrMany::One)
            }
            fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
                Self::value(AnyScalar.visit_f64(value)).map(OneOrMany::One)
            }
            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                Self::value(AnyScalar.visit_unit()).map(OneOrMany::One)
            }
            fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Self::Value, S::Error> {
                let mut values = Vec::new();
                while let Some(scalar) = list.next_element()? {
                    values.push(Self::value(Ok(scalar))?);
                }
                Ok(OneOrMany::Many(values))
            }
        }
        deserializer.deserialize_any(Either(PhantomData))
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<'de, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Names<V> {
            type Value = Pairs<'de, V>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Names(PhantomData))
    }
}
