"""tools/gpu_build reads machine code right: small texts in the form of the two disassemblers, counted by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("triton")

from tools.gpu_build import amd, nvidia
from tools.gpu_build.budgets import BUDGETS, Budget, Built, budget_of, faults
from tools.gpu_build.chips import CHIPS, NoGpu, resident_warps
from tools.gpu_build.code import Instruction, innermost_loops, reachable
from tools.gpu_build.facts import Facts, LoopFacts, Tile, loops_of

NVIDIA = """
	.section	.text.row_stats,"ax",@progbits
.text.row_stats:
	//## File "/a/rows.py", line 53
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/               @P0 BRA `(.L_x_0) ;
.L_x_1:
	//## File "/a/tiles.py", line 238 inlined at "/a/rows.py", line 70
	//## File "/a/rows.py", line 70
        /*0020*/               @P1 LDG.E.128 R4, desc[UR18][R20.64] ;
        /*0030*/                   LDG.E.128 R8, desc[UR18][R20.64+0x10] ;
        /*0040*/                   MUFU.EX2 R20, R13 ;
        /*0050*/                   BRA.DIV UR4, `(.L_x_5) ;
	//## File "/a/rows.py", line 68
        /*0060*/              @!P1 BRA `(.L_x_1) ;
.L_x_0:
        /*0070*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
.L_x_2:
	//## File "/a/record.py", line 190 inlined at "/a/rows.py", line 81
	//## File "/a/rows.py", line 81
        /*0080*/                   LDG.E.64 R4, desc[UR18][R20.64] ;
        /*0090*/                   STS [R3], R4 ;
        /*00a0*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*00b0*/                   LDS R4, [R3] ;
        /*00c0*/                   BRA P2, `(.L_x_2) ;
        /*00d0*/               @P0 STG.E.U16 desc[UR18][R20.64], R6 ;
        /*00e0*/                   CALL.REL.NOINC `($row_stats$__internal_0) ;
        /*00f0*/              @!P0 EXIT ;
        /*0100*/                   STG.E desc[UR18][R20.64], R6 ;
        /*0110*/                   EXIT ;
.L_x_3:
        /*0120*/                   BRA `(.L_x_3);
.L_x_5:
        /*0130*/                   WARPSYNC.COLLECTIVE R4, `(.L_x_6) ;
        /*0140*/                   BRA `(.L_x_0) ;
	.section	.text.other,"ax",@progbits
        /*0000*/                   EXIT ;
"""

AMD = """
row_stats:                              ; @row_stats
; %bb.0:
	.loc	1 53 0 prologue_end             ; rows.py:53:0
	s_load_dwordx2 s[2:3], s[0:1], 0x0
	s_cbranch_scc1 .LBB0_2
.LBB0_1:                                ; =>This Inner Loop Header: Depth=1
	.loc	2 238 9                         ; tiles.py:238:9 @[ rows.py:70:19 ]
	buffer_load_dwordx4 v[4:7], v1, s[4:7], 0 offen
	v_exp_f32_e32 v1, v1
	global_store_dwordx2 v1, v[2:3], s[0:1]
	.loc	1 68 5                          ; rows.py:68:5
	s_cbranch_scc1 .LBB0_1
.LBB0_2:
	ds_write_b32 v1, v2
	s_barrier
	ds_bpermute_b32 v1, v2, v3
	buffer_load_ushort v1, v2, s[4:7], 0 offen
	s_endpgm
	s_nop 0
.Lfunc_end0:
other:
	s_endpgm
"""


def test_instructions_of_nvidia_are_read():
    code = nvidia.parse(NVIDIA, "row_stats")
    assert [x.size for x in code if x.kind == "load"] == [16, 16, 8]
    assert [x.size for x in code if x.kind == "store"] == [2, 4]
    assert [k for k, x in enumerate(code) if x.kind == "barrier"] == [7, 10]
    assert [k for k, x in enumerate(code) if x.kind == "shared"] == [9, 11]
    assert [(k, x.target) for k, x in enumerate(code) if x.target is not None] == [
        (1, 7), (6, 2), (12, 8), (18, 18), (20, 7),
    ]  # fmt: skip
    assert [k for k, x in enumerate(code) if not x.continues] == [17, 18, 20]
    assert len(code) == 21
    assert reachable(code) == set(range(18))  # neither what follows the end nor where diverged warps go


def test_loops_of_nvidia_have_their_columns():
    loops, once = loops_of(nvidia.parse(NVIDIA, "row_stats"), Tile(16.0, 2, 1))
    assert loops == (LoopFacts("rows.py:68", 16.0, 5, 0, 0, 16, 0), LoopFacts("record.py:190", 0.0, 5, 1, 2, 8, 0))
    assert once == 18 - 5
    assert loops[0].each == 5 / 16
    dense, _ = loops_of(nvidia.parse(NVIDIA, "row_stats"), Tile(8.0, 2, 2))
    assert [loop.columns for loop in dense] == [8, 0]
    small, once = loops_of(nvidia.parse(NVIDIA, "row_stats"), Tile(3.0, 2, 1))
    assert [loop.columns for loop in small] == [3, 3]
    assert once == 18 - 10
    large, _ = loops_of(nvidia.parse(NVIDIA, "row_stats"), Tile(17.0, 2, 1))
    assert [loop.columns for loop in large] == [0, 0]
    none, once = loops_of(nvidia.parse(NVIDIA, "row_stats"), None)
    assert [loop.columns for loop in none] == [0, 0]
    assert once == 18


SCRATCH, SHARED = "\tscratch_store_dword off, v1, off offset:4\n", "\tds_write_b32 v1, v2\n"


@pytest.mark.parametrize(("line", "spilled"), [("", 8), (SHARED, 8), (SCRATCH, 44)])
def test_memory_that_is_set_aside_and_not_used_is_not_spilled(line, spilled):
    numbers = "\t.vgpr_count: 71\n\t.vgpr_spill_count: 2\n\t.private_segment_fixed_size: 36\n"
    kernel = SimpleNamespace(asm={"amdgcn": line + numbers})
    assert amd.registers(kernel) == (71, spilled)


def test_instructions_and_loops_of_amd_are_read():
    code = amd.parse(AMD, "row_stats")
    loops, once = loops_of(code, Tile(8.0, 2, 1))
    assert loops == (LoopFacts("rows.py:68", 8.0, 4, 0, 0, 16, 8),)
    assert once == 2 + 5
    assert [x.kind for x in code] == ["", "", "load", "", "store", "", "shared", "barrier", "", "load", "", ""]
    assert code[9].size == 2
    assert len(code) - len(reachable(code)) == 1


def test_only_innermost_loops_count_and_code_set_apart_is_no_loop():
    def jump(target, *, always=False):
        return Instruction(target=target, continues=not always, line=f"rows.py:{target}")

    nested = [Instruction(), Instruction(), Instruction(), jump(2), jump(1), Instruction(continues=False)]
    assert [(loop.name, sorted(loop.body)) for loop in innermost_loops(nested)] == [("rows.py:2", [2, 3])]
    apart = [Instruction(), jump(4), Instruction(), Instruction(continues=False), jump(2, always=True)]
    assert innermost_loops(apart) == []  # a block at the end that jumps back into the way, which never returns to it
    through = [Instruction(), jump(4), jump(0), Instruction(continues=False), jump(2, always=True)]
    assert [sorted(loop.body) for loop in innermost_loops(through)] == [[0, 1, 2, 4]]


@pytest.mark.parametrize(
    ("chip", "registers", "warps", "shared", "resident"),
    [  # NVIDIA's occupancy calculator for compute capability 8.0 and 9.0; LLVM's AMDGPU occupancy for gfx942
        ("sm_80", 32, 8, 0, 64),
        ("sm_80", 40, 8, 0, 48),
        ("sm_90", 64, 8, 0, 32),
        ("sm_90", 65, 8, 0, 24),
        ("sm_90", 72, 4, 0, 28),
        ("sm_90", 128, 4, 0, 16),
        ("sm_90", 255, 8, 0, 8),
        ("sm_90", 32, 1, 0, 32),  # 32 programs
        ("sm_90", 32, 4, 100_000, 8),
        ("sm_80", 32, 4, 100_000, 4),
        ("gfx942", 64, 4, 0, 32),
        ("gfx942", 65, 4, 0, 28),
        ("gfx942", 128, 4, 0, 16),
        ("gfx942", 512, 4, 0, 4),
        ("gfx942", 64, 4, 40_000, 4),
    ],
)
def test_resident_warps(chip, registers, warps, shared, resident):
    assert resident_warps(CHIPS[chip], registers, warps, shared) == resident


GOOD = LoopFacts("rows.py:68", 16.0, 150, 0, 0, 16, 0)


def built(loop=GOOD, *, target="sm_90", warps=32, once=250, sweeps=True, kind="index"):
    facts = Facts(60, 0, 512, 128, 0, warps, once, () if loop is None else (loop,))
    return Built(target, "row_stats", "row_loss", "long", kind, "bf16", "", sweeps, facts, 0.0)


def test_drivers_of_two_chips_are_two_devices():
    # Triton compiles for the chip that a device had first
    one, two = (NoGpu(CHIPS[name].target) for name in ("sm_90", "gfx942"))
    assert one.get_current_device() != two.get_current_device()


def test_budgets_are_kept_or_named():
    assert faults(built()) == []
    for broken, words in (
        (built(GOOD._replace(instructions=170)), "10.6 instructions a column at rows.py:68, more than 10"),
        (built(GOOD._replace(barriers=2)), "2 barriers in the loop at rows.py:68"),
        (built(GOOD._replace(load=8)), "loads of 8 bytes in the loop at rows.py:68"),
        (built(warps=24), "24 resident warps, fewer than 32"),
        (built(once=301), "301 instructions once a row, more than 300"),
        (built(None), "no column loop was found"),
    ):
        assert faults(broken) == [words]
    assert faults(built(warps=24, target="sm_80")) == []  # the budget is of sm_90's code
    assert faults(built(GOOD._replace(barriers=1), target="gfx942")) != []


def test_rows_of_few_classes_do_not_wait_for_each_other():
    few = built(warps=8, once=2000)._replace(layout="few")
    assert faults(few) == []
    waiting = GOOD._replace(barriers=3)
    assert faults(few._replace(facts=few.facts._replace(loops=(waiting,)))) == ["3 barriers in the loop at rows.py:68"]


def test_budgets_are_of_kernels_that_sweep_class_indices():
    assert budget_of(built()) == BUDGETS["row_loss", "index"] == Budget(10)
    assert budget_of(built(sweeps=False)) is None
    assert budget_of(built()._replace(function="row_stats")) is None  # which makes what an entropy needs as well
    assert budget_of(built(kind="dense")) is None
    assert budget_of(built()._replace(layout="middle")) is None
    assert budget_of(built()._replace(dtype="f16")) is None
