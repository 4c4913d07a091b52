"""What the tools of NVIDIA and AMD print, for tests of what reads it.

Nothing here was printed by a device of ours.  The forms are those that manuals, bug reports and other programs' tests
show (names of columns and keys, brackets, units that stand or lack, warnings before JSON); the values are made up.
A program that plays them back is called a recording: it tests the reading of them, and no device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

H100, H100_2 = "GPU-11111111-2222-3333-4444-555555555555", "GPU-66666666-7777-8888-9999-000000000000"
PARTS = ("MIG-aaaaaaaa-1111-2222-3333-444444444444", "MIG-bbbbbbbb-1111-2222-3333-444444444444")

# index, uuid, name, pci.bus_id, memory.total, driver_version, compute_cap, ecc.mode.current, four of the link, mig.mode
DATA_CENTRE = f"""\
0, {H100}, NVIDIA H100 80GB HBM3, 00000000:3B:00.0, 81559, 570.158.01, 9.0, Enabled, 5, 16, 5, 16, Disabled
1, {H100_2}, NVIDIA H100 80GB HBM3, 00000000:5E:00.0, 81559, 570.158.01, 9.0, Enabled, 1, 16, 5, 16, Disabled
"""
DESKTOP = (
    "0, GPU-101b1cf0-0000-0000-0000-000000000000, NVIDIA GeForce GTX 960M, 00000000:01:00.0, 4044, 470.256.02, 5.0,"
    " [N/A], 3, 16, 3, 16, [N/A]\n"
)
DIVIDED = (
    f"0, {H100}, NVIDIA A100-SXM4-80GB, 00000000:07:00.0, 81920, 535.104.05, 8.0, Enabled, 4, 16, 4, 16, Enabled\n"
)
# A device of a system on a chip: memory is the host's, the link is none (driver 580).
UNIFIED = (
    "0, GPU-2dee1e25-0000-0000-0000-000000000000, NVIDIA GB10, 0000000F:01:00.0, [N/A], 580.95.05, 12.1, [N/A],"
    " 1, 1, 1, 1, [N/A]\n"
)
# A card of 2013, of which a driver of 2018 says next to nothing.
OLD = (
    "0, GPU-0a0a0a0a-0000-0000-0000-000000000000, GeForce GTX 770, 00000000:02:00.0, 1999, 390.48, [Not Supported],"
    " [Not Supported], [Not Supported], [Not Supported], [Not Supported], [Not Supported], [Not Supported]\n"
)
# Everything that a driver of 2026 may put in the place of an answer.
NO_ANSWERS = [
    "[N/A]",
    "N/A",
    "[Not Supported]",
    "[Insufficient Permissions]",
    "[Function Not Found]",
    "[Requested functionality has been deprecated]",
    "[Not Found]",
    "",
]
LOST_CELLS = f"0, {H100}, [GPU is lost], 00000000:3B:00.0, [GPU is lost], 570.158.01, 9.0, ERR!, 5, 16, 5, 16, [N/A]\n"

LIST_OF_PARTS = f"""\
GPU 0: NVIDIA A100-SXM4-80GB (UUID: {H100})
  MIG 1g.10gb     Device  0: (UUID: {PARTS[0]})
  MIG 3g.40gb     Device  1: (UUID: {PARTS[1]})
GPU 1: NVIDIA A100-SXM4-80GB (UUID: {H100_2})
"""

# Exit status and text of a tool that has no answer, and what we make of it.
REFUSALS = [
    (
        9,
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that it is running.",
        "the NVIDIA driver is not loaded",
    ),
    (
        18,
        "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 570.158",
        "driver and library differ: the driver was updated; reload it or reboot",
    ),
    (6, "No devices were found", "it finds no device"),
    (
        15,
        "Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost.  Reboot the system",
        "a device has fallen off the bus",
    ),
    (255, "Unable to determine the device handle for GPU0000:17:00.0: Unknown Error", "fallen off the bus"),
    (4, "Failed to initialize NVML: Insufficient Permissions", "this account may not use the device files"),
]

XID_79 = "NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."
XID_31 = (
    "NVRM: Xid (PCI:0000:5e:00): 31, pid=4711, name=python3, Ch 00000008, intr 00000000."
    " MMU Fault: ENGINE GRAPHICS GPCCLIENT_T1_0 faulted @ 0x7f1c_aa000000"
)
OFF_THE_BUS = "NVRM: The NVIDIA GPU 0000:3b:00.0 (PCI ID: 10de:26b5) installed in this system has fallen off the bus"

AMD_LIST = [
    {
        "gpu": 0,
        "bdf": "0000:05:00.0",
        "uuid": "abff74a1-0000-1000-80d1-3c23a9580558",
        "kfd_id": 12345,
        "node_id": 2,
        "partition_id": 0,
    }
]
AMD_STATIC = [
    {
        "gpu": 0,
        "asic": {
            "market_name": "AMD Instinct MI300X",
            "vendor_id": "0x1002",
            "vendor_name": "Advanced Micro Devices Inc. [AMD/ATI]",
            "asic_serial": "0x1234567890ABCDEF",
            "target_graphics_version": "gfx942",
        },
        "bus": {
            "bdf": "0000:05:00.0",
            "max_pcie_width": 16,
            "max_pcie_speed": {"value": 32, "unit": "GT/s"},
            "pcie_interface_version": "Gen 5",
            "slot_type": "OAM",
        },
        "driver": {"name": "amdgpu", "version": "6.12.12"},
        "vram": {"type": "HBM", "vendor": "N/A", "size": {"value": 196592, "unit": "MB"}},
        "ras": {
            "eeprom_version": "0x10000",
            "single_bit_schema": "DISABLED",
            "double_bit_schema": "DISABLED",
            "poison_schema": "ENABLED",
        },
    }
]
AMD_METRIC = [
    {
        "gpu": 0,
        "usage": {
            "gfx_activity": {"value": 42, "unit": "%"},
            "umc_activity": {"value": 1, "unit": "%"},
            "mm_activity": "N/A",
            "vcn_activity": [{"value": 0, "unit": "%"}, "N/A"],
        },
        "power": {"socket_power": {"value": 139, "unit": "W"}, "gfx_voltage": "N/A"},
        "clock": {
            "gfx_0": {"clk": {"value": 132, "unit": "MHz"}, "deep_sleep": "ENABLED"},
            "mem_0": {"clk": {"value": 900, "unit": "MHz"}},
        },
        "temperature": {"edge": "N/A", "hotspot": {"value": 41, "unit": "C"}, "mem": {"value": 35, "unit": "C"}},
        "pcie": {"width": 16, "speed": {"value": 32.0, "unit": "GT/s"}, "bandwidth": "N/A"},
        "ecc": {"total_correctable_count": 3, "total_uncorrectable_count": 0, "total_deferred_count": 0},
        "mem_usage": {
            "total_vram": {"value": 196592, "unit": "MB"},
            "used_vram": {"value": 283, "unit": "MB"},
        },
    }
]
AMD_PROCESSES = [
    {
        "gpu": 0,
        "process_list": [
            {
                "process_info": {
                    "name": "python3",
                    "pid": 4711,
                    "memory_usage": {"gtt_mem": {"value": 0, "unit": "B"}, "vram_mem": {"value": 4096, "unit": "B"}},
                }
            }
        ],
    },
    {"gpu": 1, "process_list": [{"process_info": "No running processes detected"}]},
]
# ROCm 5.7 and 6.0: numbers are bare, and called something else.
AMD_STATIC_OLD = [
    {
        "gpu": 0,
        "asic": {"market_name": "Instinct MI250X", "asic_serial": "0xabcdef0123456789"},
        "bus": {"bdf": "0000:C1:00.0", "max_pcie_speed": 16, "max_pcie_lanes": 16},
        "driver": {"driver_name": "amdgpu", "driver_version": "6.3.6"},
        "vram": {"vram_type": "HBM2", "vram_vendor": "SAMSUNG", "vram_size_mb": 65520},
    }
]
AMD_METRIC_OLD = [
    {
        "gpu": 0,
        "usage": {"gfx_activity": 100, "umc_activity": 7, "mm_activity": [0, 0]},
        "power": {"current_power": 305, "current_gfx_voltage": "N/A"},
        "clock": {"gfx": {"cur_clk": 1700, "max_clk": 1700, "min_clk": 500}, "MEM": {"cur_clk": 1600, "max_clk": 1600}},
        "temperature": {"edge": 44, "hotspot": 51, "mem": 48},
        "ecc": {"total_correctable": 1, "total_uncorrectable": 0, "cache_correctable": 0},
        "pcie": {"current_lanes": 16, "current_speed": 16, "replay_count": "N/A"},
        "mem_usage": {"total_vram": 65520, "used_vram": 11},
    }
]
# A device in two parts (DPX): only the first has measures of the whole.
AMD_METRIC_PARTS = {
    "gpu_data": [
        {**AMD_METRIC[0]},
        {
            "gpu": 1,
            "usage": {"gfx_activity": "N/A", "umc_activity": "N/A", "gfx_busy_inst": {"xcp_0": ["N/A", "N/A"]}},
            "power": "N/A",
            "clock": {"gfx_0": {"clk": "N/A", "deep_sleep": "N/A"}},
            "temperature": {"edge": "N/A", "hotspot": "N/A"},
            "ecc": "N/A",
            "mem_usage": {"total_vram": {"value": 98304, "unit": "MB"}, "used_vram": {"value": 141, "unit": "MB"}},
        },
    ]
}
WARNING = "WARNING: User is missing the following required groups: [render, video]. Please add the user.\n"

ROCM = {
    "card0": {
        "Card Series": "AMD Radeon RX 7900 XT",
        "Card Model": "0x744c",
        "Card Vendor": "Advanced Micro Devices, Inc. [AMD/ATI]",
        "Unique ID": "0x1f2e3d4c5b6a7988",
        "PCI Bus": "0000:C4:00.0",
        "GFX Version": "gfx1100",
        "VRAM Total Memory (B)": "21458059264",
        "VRAM Total Used Memory (B)": "27856896",
        "Temperature (Sensor edge) (C)": "31.0",
        "Temperature (Sensor junction) (C)": "38.0",
        "Average Graphics Package Power (W)": "7.222",
        "GPU use (%)": "19",
        "sclk clock speed:": "(800Mhz)",
        "mclk clock speed:": "(96Mhz)",
    },
    "card1": {"Card series": "Phoenix3", "Unique ID": "N/A", "PCI Bus": "0000:C5:00.0"},
    "system": {"Driver version": "6.10.5"},
}

# Of the shell, which starts in a millisecond.
_PLAYER = """\
#!/bin/sh
case "$*" in
*--loop-ms=*) {loop} ;;
{answers}
*) echo "the recording has no answer to $*" >&2; exit 99 ;;
esac
"""


def recording(folder: Path, name: str, answers: list[tuple[object, ...]], rounds: int = 0) -> Path:
    """Make a program that plays back what a tool said: the first answer whose words are among its arguments.

    Args:
        folder: Where.
        name: Of the tool.
        answers: Words, exit status and output; the status ``"hang"`` stands for a tool that does not end.
        rounds: After how many rounds of samples it hangs, as a script whose program hangs; 0 for never.
    """
    cases, files = [], []
    for number, (words, status, out) in enumerate(answers):
        files.append(folder / f"{name}.{number}.out")
        files[-1].write_text(str(out))
        then = "while :; do sleep 1000; done" if status == "hang" else f"exit {status}"
        cases.append(f'*"{words}"*) cat {files[-1]}; {then} ;;')
    loop = f"while :; do cat {files[0]}; sleep 0.01; done"
    if rounds:
        loop = f"for round in {' '.join(map(str, range(rounds)))}; do cat {files[0]}; done; sleep 1000; exit"
    program = folder / name
    program.write_text(_PLAYER.format(loop=loop, answers="\n".join(cases)))
    program.chmod(0o755)
    return program
