# Values that cannot be: exit code 2, the option, what it got and what it wants.
bad() { # bad WANTED ARGUMENTS...
    wanted=$1
    shift
    run 2 generate --prompt x "$@"
    says "$wanted"
}
bad '--steps wants a whole number from 1 to 1000, got "0"' --steps 0
bad '--steps wants a whole number from 1 to 1000, got "1001"' --steps 1001
bad '--steps wants a whole number from 1 to 1000, got "ten"' --steps ten
bad '--steps wants a whole number from 1 to 1000, got "4.5"' --steps=4.5
bad '--steps wants a whole number from 1 to 1000, got ""' --steps=
bad '--steps wants a whole number from 1 to 1000, got "99999999999999999999"' --steps 99999999999999999999
bad '--frames wants a whole number' --frames -3
bad '--threads wants a whole number from 1' --threads 0
bad '--guidance wants a number' --guidance nan
bad '--guidance wants a number' --guidance 1e400
bad '--guidance wants a number' --guidance 5x
bad '--shift wants a number' --shift 0
bad '--density wants a number' --density 0
bad '--density wants a number' --density 1.5
bad '--density wants a number' --density -0.2
bad '--measure wants a number from 0 to 1' --measure 2
bad '--recall wants a number from 1e-06 to 1, got "0"' --recall 0
bad '--recall wants a number' --recall 1.01
bad '--error wants a number' --error -1
bad '--recall holds what is measured' --recall 0.9 --measure 0
bad '--error holds what is measured' --error 0.1 --measure 0
bad 'nothing to hold' --recall 0.9 --attention dense
bad '--profile brings the preset' --profile p.json --attention dfs
bad '--profile brings the preset' --profile p.json --density 0.2
bad '--seed wants a whole number' --seed -1
bad '--seed wants a whole number' --seed 18446744073709551616
bad '--seed wants a whole number' --seed 0x10
bad '--size wants WIDTHxHEIGHT' --size 832
bad '--size wants WIDTHxHEIGHT' --size 832x
bad '--size wants WIDTHxHEIGHT' --size 0x480
bad '--size wants WIDTHxHEIGHT' --size -16x16
bad '--size wants WIDTHxHEIGHT' --size 832x480x3
bad '--size wants WIDTHxHEIGHT' --size 999999999x16
bad '--sampler wants one of unipc, euler, got "ddim"' --sampler ddim
bad '--dtype wants one of auto, f32, bf16, got "f16"' --dtype f16
bad '--versus wants one of dense, got "sparse"' --versus sparse
bad '--output must not be empty' -o ""
bad '--variant wants one of c' --variant sse2
run 1 generate --prompt x --device cuda
says "--device cuda" "processor only"
nothing_left
