//! The element types of arrays and their bytes.
//!
//! One table lists the types; all other code is generic over [`Element`].

use std::fmt;

use serde::{Deserialize, Serialize};

use super::chunks::Chunks;

/// A number type that arrays can hold: `f32 f64 u8 i8 u16 i16 u32 i32 u64 i64`. The trait is sealed.
pub trait Element: sealed::Bytes {
    /// The type on disk.
    const DTYPE: Dtype;
}

pub(crate) mod sealed {
    use std::fmt;

    use super::{Chunks, Values};

    /// Conversions that only this crate uses.
    pub trait Bytes: Copy + PartialEq + fmt::Debug + Send + Sync + Sized + 'static {
        /// Appends the little-endian bytes of `values`.
        fn encode(values: &[Self], bytes: &mut Vec<u8>);
        /// Appends the values of little-endian `bytes`, a whole number of elements.
        fn decode(bytes: &[u8], values: &mut Vec<Self>);
        /// The value for comparisons; large integers are rounded.
        fn number(self) -> f64;
        /// The bit pattern, which tells any two values apart.
        fn pattern(self) -> u64;
        /// Erases the type.
        fn wrap(chunks: Chunks<Self>) -> Values;
        /// Recovers the type, or returns the values unchanged.
        fn unwrap(values: Values) -> Result<Chunks<Self>, Values>;
        /// Recovers the type of borrowed values.
        fn peek(values: &Values) -> Option<&Chunks<Self>>;
    }
}

macro_rules! elements {
    ($($type:ident $variant:ident $doc:literal;)*) => {
        /// The type of an array's elements.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum Dtype {
            $(#[doc = $doc] $variant,)*
        }

        impl Dtype {
            /// Size of one element.
            pub fn n_bytes(self) -> usize {
                match self { $(Dtype::$variant => size_of::<$type>(),)* }
            }

            pub(crate) fn to_safetensors(self) -> safetensors::Dtype {
                match self { $(Dtype::$variant => safetensors::Dtype::$variant,)* }
            }

            pub(crate) fn from_safetensors(dtype: safetensors::Dtype) -> Option<Self> {
                match dtype { $(safetensors::Dtype::$variant => Some(Dtype::$variant),)* _ => None }
            }
        }

        impl fmt::Display for Dtype {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Dtype::$variant => stringify!($type),)* })
            }
        }

        /// Values whose type is known at run time only.
        #[derive(Clone, Debug)]
        pub enum Values {
            $(#[doc = $doc] $variant(Chunks<$type>),)*
        }

        impl Values {
            pub(crate) fn dtype(&self) -> Dtype {
                match self { $(Values::$variant(_) => Dtype::$variant,)* }
            }
        }

        /// Evaluates the expression with `$chunks` bound to the typed chunks of `$values`.
        macro_rules! with_chunks {
            ($values:expr, $chunks:ident => $do:expr) => {
                match $values { $($crate::format::element::Values::$variant($chunks) => $do,)* }
            };
        }
        pub(crate) use with_chunks;

        /// Evaluates the expression with `$T` standing for the element type of `$dtype`.
        macro_rules! with_type {
            ($dtype:expr, $T:ident => $do:expr) => {
                match $dtype { $($crate::Dtype::$variant => { type $T = $type; $do })* }
            };
        }
        pub(crate) use with_type;

        $(
            impl Element for $type {
                const DTYPE: Dtype = Dtype::$variant;
            }

            impl sealed::Bytes for $type {
                fn encode(values: &[Self], bytes: &mut Vec<u8>) {
                    bytes.reserve(size_of_val(values));
                    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
                }

                fn decode(bytes: &[u8], values: &mut Vec<Self>) {
                    let (chunks, remainder) = bytes.as_chunks::<{ size_of::<$type>() }>();
                    debug_assert!(remainder.is_empty(), "callers decode whole elements");
                    values.extend(chunks.iter().map(|chunk| <$type>::from_le_bytes(*chunk)));
                }

                #[allow(clippy::unnecessary_cast, reason = "one of the types is f64")]
                fn number(self) -> f64 {
                    self as f64
                }

                fn pattern(self) -> u64 {
                    let mut bytes = [0; 8];
                    bytes[..size_of::<$type>()].copy_from_slice(&self.to_le_bytes());
                    u64::from_le_bytes(bytes)
                }

                fn wrap(chunks: Chunks<Self>) -> Values {
                    Values::$variant(chunks)
                }

                fn unwrap(values: Values) -> Result<Chunks<Self>, Values> {
                    match values { Values::$variant(chunks) => Ok(chunks), other => Err(other) }
                }

                fn peek(values: &Values) -> Option<&Chunks<Self>> {
                    match values { Values::$variant(chunks) => Some(chunks), _ => None }
                }
            }
        )*
    };
}

elements! {
    f32 F32 "32-bit float";
    f64 F64 "64-bit float";
    u8 U8 "byte";
    i8 I8 "signed byte";
    u16 U16 "16-bit unsigned integer";
    i16 I16 "16-bit signed integer";
    u32 U32 "32-bit unsigned integer";
    i32 I32 "32-bit signed integer";
    u64 U64 "64-bit unsigned integer";
    i64 I64 "64-bit signed integer";
}
