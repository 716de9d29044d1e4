#!/bin/sh
# Named by .cargo/config.toml as the compiler's wrapper, for one reason: without libtorch, torch-sys would fail after
# minutes with a page of C++ errors. This stops before its build script is compiled, with one sentence, in the form that
# cargo takes for a compiler's own message. Everything else goes straight to the compiler, and so does every crate that
# needs no libtorch. RUSTC_WRAPPER in the environment (sccache, say) takes its place.
if [ "${CARGO_PKG_NAME:-}" = torch-sys ] && [ -n "${LIBTORCH:-}" ] && [ -z "${LIBTORCH_USE_PYTORCH:-}" ] &&
    [ ! -e "${LIBTORCH_LIB:-$LIBTORCH}/lib/libtorch.so" ]; then
    folder=$(printf %s "$LIBTORCH" | sed 's/["\\]/\\&/g')
    message="there is no libtorch in $folder: run \`make libtorch\` once, or set LIBTORCH to a libtorch 2.13.0"
    printf '{"$message_type":"diagnostic","message":"%s","code":null,"level":"error","spans":[],"children":[],"rendered":"error: %s\\n\\n"}\n' \
        "$message" "$message" >&2
    exit 1
fi
exec "$@"
