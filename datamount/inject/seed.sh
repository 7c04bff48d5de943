# Run by /bin/sh of the notebook's own image, before anything of ours: hands the home folder and the manifest over.
#   $1 the home folder   $2 "copy", or "kept" where the home is a volume of the hub's   $3 that volume, or the new one
#   $4 the folder for fetch: tree/ (manifest and lock, placed as in the repo), facts, problems, and "seeded" at the end
# Ends with 0 whatever happens: a container that fails here would keep the notebook from opening.
home=$1 mode=$2 volume=$3 out=$4
unset CDPATH
umask 022

problem() {
    printf '%s\n' "$1" >>"$out/problems"
    printf 'datamount-seed: %s\n' "$1" >&2
}

fact() {
    printf '%s\n' "$2" >"$out/$1"
}

copy_home() {
    if [ ! -d "$home/" ]; then
        problem "the image has no folder $home"
        return
    fi
    # Entry by entry: the mode and owner of the volume's own root are the kubelet's, and cp may not set them.
    for entry in "$home"/* "$home"/.[!.]* "$home"/..?*; do
        if [ -e "$entry" ] || [ -L "$entry" ]; then
            cp -a -- "$entry" "$volume/" || problem "not all of ${entry##*/} could be copied to the home volume"
        fi
    done
}

has_manifest() {
    for sub in .binder binder .; do
        [ -f "$1/$sub/datamount.yaml" ] && return 0
    done
    return 1
}

find_course() {
    course=
    for folder in "${REPO_DIR:-$home}" "$home" "$volume"; do
        [ "$folder" = "$volume" ] && [ "$mode" != kept ] && continue
        [ -d "$folder/" ] || continue
        course=${course:-$folder}
        if has_manifest "$folder"; then
            course=$folder
            return
        fi
    done
}

copy_manifest() {
    mkdir -p "$out/tree"
    for sub in .binder binder .; do
        [ -d "$course/$sub" ] || continue
        mkdir -p "$out/tree/$sub"
        for file in datamount.yaml datamount.lock; do
            [ -f "$course/$sub/$file" ] || continue
            # One that is not handed over becomes a link, so that nobody takes the course for one without it.
            { [ "$(wc -c <"$course/$sub/$file")" -le 50331648 ] && cp -- "$course/$sub/$file" "$out/tree/$sub/$file"; } ||
                { rm -f "$out/tree/$sub/$file" && ln -s /dev/null "$out/tree/$sub/$file"; } ||
                problem "$sub/$file could not be read"
        done
    done
}

seed() {
    if [ -e "$out/seeded" ]; then
        return # the pod's containers run again: what is in the home now is the student's
    fi
    fact uid "$(id -u)"
    fact gid "$(id -g)"
    fact jupyter_config_path "${JUPYTER_CONFIG_PATH:-}" # which a pod's own variable hides from the notebook
    find_course
    if [ -n "$course" ]; then
        fact folder "$course"
        fact origin "$(git -C "$course" config --get remote.origin.url 2>/dev/null)"
        fact commit "$(git -C "$course" rev-parse --verify --quiet 'HEAD^{commit}' 2>/dev/null)"
        copy_manifest
    else
        problem "the image has no course: neither ${REPO_DIR:-\$REPO_DIR} nor $home is a folder"
    fi
    [ "$mode" = copy ] && copy_home
    : >"$out/seeded"
}

(seed)
exit 0
