# Shell functions that the maintainer scripts share; xtask puts them in place of "#LIB#".

# VMMs that live, one pid a line: whoever carries Hearth's mark as a VMM or its shim.
living_vms() {
	for environ in /proc/[0-9]*/environ; do
		# Processes end while this looks at them.
		if { tr '\0' '\n' <"$environ"; } 2>/dev/null | grep -q '^HEARTH_ROLE=vmm$'; then
			pid=${environ#/proc/}
			echo "${pid%/environ}"
		fi
	done
}
